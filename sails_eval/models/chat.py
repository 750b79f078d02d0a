"""Dialogues in the words of a chat template: prompts, the end of a turn, system prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sails_eval.core.errors import UserError, first_line

if TYPE_CHECKING:
    from transformers import GenerationConfig


def render_chat(tokenizer: Any, messages: list[dict[str, str]], *, answered: bool = False) -> str:
    """A dialogue as the model sees it, up to where it answers (or, `answered`, to the end of its last turn).

    A system turn that the template refuses stands in front of the user's first one, as in `instructed`. Raises
    UserError where the template has a fault or refuses the dialogue.
    """
    return _folding(tokenizer, messages, add_generation_prompt=not answered)


def render_prompt(tokenizer: Any, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
    """As `render_chat`; the last turn, where it is the beginning of an answer, stays open, as lm-eval's `gen_prefix`
    has it."""
    ending = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
    return _folding(tokenizer, messages, **ending)


def _folding(tokenizer: Any, messages: list[dict[str, str]], **ending: bool) -> str:
    try:
        return _render(tokenizer, messages, **ending)
    except UserError:
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise
        (system, first), others = messages[:2], messages[2:]
        opened = {"role": first["role"], "content": f"{system['content']}\n\n{first['content']}"}
        return _render(tokenizer, [opened, *others], **ending)


def _render(tokenizer: Any, messages: list[dict[str, str]], **ending: bool) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **ending)
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(f"the chat template cannot render a dialogue of {roles}: {first_line(error)}") from error
    return str(text)


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an answer, if it does; training teaches it, so it has to
    stop generation even where the model's own settings know only another one."""
    asked = [{"role": "user", "content": "hello"}]
    prompt = render_chat(tokenizer, asked)
    whole = render_chat(tokenizer, [*asked, {"role": "assistant", "content": "hello"}], answered=True)
    ids = tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} - {tokenizer.unk_token_id}
    return next((token for token in ids if token in special), None)


def end_tokens(generation: "GenerationConfig", tokenizer: Any) -> list[int]:
    """The tokens that end an answer: those of the model's generation settings, its tokenizer and its template."""
    ends = generation.eos_token_id
    known = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return sorted(known - {None})


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
