"""What is done to a chat template when it is loaded, so that prompts depend on nothing but the dialogue.

A template that asks for the time gets one and the same, and one that never opens the assistant's turn does so.
"""

import re
from datetime import datetime
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError

CLOCK = datetime(2024, 7, 26, 12)
"""The time for templates that ask for it: the date that Llama 3.1's writes where it cannot know one."""

_DIRECTIVES = [f"%-{letter}" for letter in "dmHIMSjy"] + [
    f"%{letter}" for letter in "aAbBcCdDeFfgGhHIjklmMpPrRSTuUVwWxXyYzZ"
]

FAULTS = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What rendering raises: the template's own refusals, and what Python says of its expressions."""

MARKS = ("Red", "Blue")
"""Two texts of which neither begins or ends as the other: what renderings of both have in common is the template's."""


def reads_clock(template: Any) -> bool:
    """Whether a chat template asks for the time."""
    return "strftime_now" in str(template)


def settled(tokenizer: Any) -> str:
    """The tokenizer's chat template (of several: the one for plain dialogues), with the time and the turn settled."""
    template = str(tokenizer.get_chat_template())
    if reads_clock(template):
        values = {one: CLOCK.strftime(one) for one in _DIRECTIVES}
        template = (
            "{%- macro strftime_now(format) -%}{%- set ns = namespace(said=format) -%}"
            f"{{%- for one, value in {values!r}.items() -%}}{{%- set ns.said = ns.said.replace(one, value) -%}}"
            "{%- endfor -%}{{- ns.said -}}{%- endmacro %}{{ '' }}" + template  # which keeps a line break at its start
        )
    tokenizer.chat_template = template
    opening = missing_opening(tokenizer)
    if opening:
        template = template.removesuffix("\n") + f"{{% if add_generation_prompt %}}{{{{ {opening!a} }}}}{{% endif %}}"
    return template


def missing_opening(tokenizer: Any) -> str:
    """What the template writes between request and answer once it is answered, but not where the model is to answer.

    Only for templates that ignore `add_generation_prompt`, and only what has words in it ('<|im_start|>assistant'): a
    blank before an answer is the answer's.
    """
    asked = [{"role": "user", "content": "hello"}]
    try:
        prompt, closed = (render(tokenizer, asked, opened=opened) for opened in (True, False))
        before = common_start(*(render(tokenizer, [*asked, said(mark)], opened=False) for mark in MARKS))
    except FAULTS:  # told where the dialogue is needed
        return ""
    opening = before.removeprefix(prompt)
    return opening if prompt == closed and opening != before and re.search(r"\w", opening) else ""


def common_start(one: str, other: str) -> str:
    """What two texts have in common at their beginnings."""
    return "".join(a for a, _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def said(text: str) -> dict[str, str]:
    """The turn of an assistant who says it."""
    return {"role": "assistant", "content": text}


def render(tokenizer: Any, messages: list[dict[str, str]], *, opened: bool) -> str:
    """A dialogue in the chat template, `opened`: up to where the assistant answers. Raises one of `FAULTS`."""
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=opened, tokenize=False))
