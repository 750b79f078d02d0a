"""Dialogues in the words of a chat template: prompts, the end of a turn, system prompts."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sails_eval.core.errors import UserError, first_line
from sails_eval.models.templates import FAULTS, MARKS, common_start, said

if TYPE_CHECKING:
    from transformers import GenerationConfig


def render_chat(tokenizer: Any, messages: list[dict[str, str]], *, answered: bool = False) -> str:
    """A dialogue as the model sees it, up to where it answers (or, `answered`, to the end of its last turn).

    A system turn that the template refuses or leaves out stands in front of the user's first one, as in `instructed`.
    Raises UserError where the template has a fault or refuses the dialogue.
    """
    return _folding(tokenizer, messages, add_generation_prompt=not answered)


def render_prompt(tokenizer: Any, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """As `render_chat`; the last turn, where it is the beginning of an answer, stays open, as lm-eval's `gen_prefix`
    has it."""
    ending = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
    return _folding(tokenizer, messages, **ending)


def _folding(tokenizer: Any, messages: list[dict[str, str]], **ending: bool) -> str:
    if len(messages) < 2 or messages[0]["role"] != "system":
        return _render(tokenizer, messages, **ending)
    (system, first), others = messages[:2], messages[2:]
    with suppress(UserError):
        text = _render(tokenizer, messages, **ending)
        if system["content"].strip() in text:
            return text
    opened = {"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}
    return _render(tokenizer, [opened, *others], **ending)


def _render(tokenizer: Any, messages: list[dict[str, str]], **ending: bool) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **ending))
    except FAULTS as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"the chat template cannot render a dialogue of {roles}: {first_line(error)}") from error


AWKWARD = 'Is it\'s "a < b" & {c},\n  or d? ' + "Go on. " * 50 + "End."
"""What templates change that shorten, capitalise or escape what is said; they may trim it."""


def check_template(tokenizer: Any) -> None:
    """Raises UserError where the chat template has a fault, loses requests, changes on its own or writes BOS twice."""
    asked, bos = [{"role": "user", "content": AWKWARD}], tokenizer.bos_token
    text = render_chat(tokenizer, asked)
    if AWKWARD not in text:
        raise UserError("its chat template does not write what the user says, or changes it; give --chat-template FILE")
    if text != render_chat(tokenizer, asked):
        raise UserError("its chat template writes something else every time; give another: --chat-template FILE")
    if bos and text.startswith(bos) and text.removeprefix(bos).lstrip().startswith(bos):  # elsewhere it may open turns
        raise UserError("its chat template writes the BOS token twice; remove one from the template")


@dataclass(frozen=True)
class Ending:
    """What a chat template writes behind an answer.

    `token` is the special token in it that ends the answer, '' where there is none. `learnt` is what training teaches:
    up to the next turn, or, where no token ends the answer, with the end-of-text token behind it.
    """

    written: str
    learnt: str
    token: str


def ending_of(tokenizer: Any) -> Ending:
    """What stands behind an answer, whatever the answer is: what renderings of two have in common at their ends."""
    asked = [{"role": "user", "content": "hello"}]
    one, other = (render_chat(tokenizer, [*asked, said(mark)], answered=True) for mark in MARKS)
    written = "" if one == other else common_start(one[::-1], other[::-1])[::-1]
    special = {str(token) for token in (*tokenizer.added_tokens_decoder.values(), *tokenizer.all_special_tokens)}
    special = {token for token in special - {tokenizer.unk_token} if token.strip() and not _THINKS.match(token)}
    by_length = sorted(special, key=len, reverse=True)
    found = list(re.finditer("|".join(map(re.escape, by_length)), written)) if special else []
    if not found:
        return Ending(written, written + (tokenizer.eos_token or ""), "")
    next_turn = next((match.start() for match in found[1:] if match[0] != tokenizer.eos_token), len(written))
    return Ending(written, written[:next_turn], found[0][0])


_THINKS = re.compile(r"\W*(?:begin.?of.?)?(?:think|thought|reason)", re.IGNORECASE)
"""Tokens that open or close a block of thoughts: they never end an answer."""


def render_answer(tokenizer: Any, request: list[dict[str, str]], prompt: str, text: str, ending: Ending) -> str:
    """What is learnt behind a request that was rendered as `prompt`: the answer and its end.

    `ending` is the template's. Raises UserError where the answer cannot be told apart.
    """
    whole = render_chat(tokenizer, [*request, said(text)], answered=True)
    if not whole.startswith(prompt):
        raise UserError(
            "the chat template changes the request once it is answered, so the answer's tokens cannot be found; give "
            "another one: --chat-template FILE"
        )
    if whole == prompt:
        raise UserError("the chat template does not write the assistant's answer; give another: --chat-template FILE")
    new = whole[len(prompt) :]
    return new.removesuffix(ending.written) + ending.learnt if new.endswith(ending.written) else new


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an answer, if it does; training teaches it, so it has to
    stop generation even where the model's own settings know only another one."""
    token = ending_of(tokenizer).token
    return int(tokenizer.convert_tokens_to_ids(token)) if token else None


def end_tokens(generation: "GenerationConfig", tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the model's generation settings, its tokenizer and its template."""
    told = generation.eos_token_id
    ends = {*(told if isinstance(told, list) else [told]), tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return sorted(ends.intersection(tokenizer.get_vocab().values()))


def encode_chat(tokenizer: Any, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a dialogue up to where the model answers; special tokens are the template's alone."""
    return list(tokenizer(render_chat(tokenizer, messages), add_special_tokens=False)["input_ids"])


@contextmanager
def instructed(tokenizer: Any, system_prompt: str) -> Iterator[None]:
    """Let the chat template open every dialogue with a system prompt ('' changes nothing).

    A template without a system role gets it in front of the first turn, which is the user's.
    """
    if not system_prompt:
        yield
        return
    template, said = tokenizer.chat_template, ascii(system_prompt)  # Jinja reads the escapes of Python
    if has_system_role(tokenizer):
        opened = f"[{{'role': 'system', 'content': {said}}}] + messages"
    else:
        opened = f"[{{'role': 'user', 'content': {said} + '\\n\\n' + messages[0]['content']}}] + messages[1:]"
    tokenizer.chat_template = f"{{% set messages = {opened} %}}{template}"
    try:
        yield
    finally:
        tokenizer.chat_template = template


def has_system_role(tokenizer: Any) -> bool:
    """Whether the chat template knows a system turn, and does not refuse it or write it as a user's."""
    asked = [{"role": "user", "content": "hello"}]
    texts = []
    for role in ("system", "user"):
        try:
            turns = [{"role": role, "content": "instructions"}, *asked]
            texts.append(_render(tokenizer, turns, add_generation_prompt=True))
        except UserError:  # some want speakers to alternate
            texts.append("")
    return "instructions" in texts[0] and texts[0] != texts[1]
