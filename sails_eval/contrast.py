"""Contrast texts, tokenised: aligned and unaligned ones, and which of their tokens are content and not template."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sails_eval.config import Frozen
from sails_eval.data import Example, Message, Requests
from sails_eval.errors import UserError
from sails_eval.models import render_chat

Positions = Literal["response", "prompt_last", "first4", "all"]

FITTING: dict[str, tuple[Positions, ...]] = {
    "responses": ("response", "first4", "all"),
    "requests": ("prompt_last", "all"),
}
"""Which positions can tell two answers to one request apart (its own tokens alone never do), and two requests."""

MARK = "\u27e6request\u27e7"


class ContrastSettings(Frozen):
    """Which texts are contrasted, and at which of their tokens. The template's tokens and padding never count."""

    contrast: Literal["responses", "requests"] = Field(
        default="responses",
        description="responses (default; after the paper): aligned against unaligned answers to the same requests; "
        "requests (not specified by the paper): harmless requests, which count as aligned, against harmful ones",
    )
    positions: Positions = Field(
        default="response",
        description="response (default; not specified by the paper): the answer's tokens; first4: its first four; "
        "prompt_last: the last token of the request's content; all: contents of request and answer",
    )

    @model_validator(mode="after")
    def _fitting_positions(self) -> Self:
        if self.positions not in (fitting := FITTING[self.contrast]):
            raise ValueError(
                f"key 'positions': '{self.positions}' tells nothing apart with contrast '{self.contrast}'; "
                f"take {' or '.join(fitting)}"
            )
        return self


@dataclass(frozen=True)
class Text:
    """A tokenised dialogue.

    `answer` and `request` are the places of the answer's content and of its request's; either may be empty. All other
    tokens are the template's or of earlier turns, and are never counted.
    """

    ids: list[int]
    answer: range
    request: range = range(0)

    def positions(self, which: Positions) -> list[int]:
        """The tokens that are counted."""
        return {
            "response": [*self.answer],
            "first4": [*self.answer[:4]],
            "prompt_last": [*self.request[-1:]],
            "all": [*self.request, *self.answer],
        }[which]


@dataclass(frozen=True)
class Contrast:
    """Two classes of texts; where they are `paired`, the n-th of both answer the same request."""

    aligned: Sequence[Text] = ()
    unaligned: Sequence[Text] = ()
    paired: bool = True

    @property
    def tokens(self) -> int:
        return sum(len(text.ids) for text in (*self.aligned, *self.unaligned))

    def halves(self) -> tuple[Contrast, Contrast]:
        """A random split into halves, always the same one; pairs stay together."""

        def shuffled(texts: Sequence[Text]) -> list[Text]:
            return random.Random("split halves").sample(texts, len(texts))  # equal lengths have equal orders

        aligned, unaligned = shuffled(self.aligned), shuffled(self.unaligned)
        first, second = (Contrast(aligned[i::2], unaligned[i::2], self.paired) for i in (0, 1))
        return first, second


def encode_contrast(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Contrast:
    """Pairs of answers: the request in the chat format, then only the content of either answer.

    Texts are cut at `max_length` tokens; pairs whose request alone reaches it, or without an answer, are left out.
    """
    aligned: list[Text] = []
    unaligned: list[Text] = []
    for example in examples:
        start, request = _request(tokenizer, example.messages)
        answers = [
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (example.response, example.rejected)
        ]
        if len(start) < max_length and all(answers):
            for texts, answer in zip((aligned, unaligned), answers, strict=True):
                ids = (start + answer)[:max_length]
                texts.append(Text(ids, answer=range(len(start), len(ids)), request=request))
    return Contrast(aligned, unaligned)


def encode_requests(tokenizer: Any, requests: Requests, max_length: int) -> Contrast:
    """Harmless requests as aligned, harmful ones as unaligned; those longer than `max_length` tokens are left out."""

    def encoded(asked: Sequence[tuple[Message, ...]]) -> list[Text]:
        found = (_request(tokenizer, messages) for messages in asked)
        return [Text(ids, answer=range(0), request=request) for ids, request in found if len(ids) <= max_length]

    return Contrast(encoded(requests.harmless), encoded(requests.harmful), paired=False)


def _request(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], range]:
    """Token ids of a dialogue up to where the model answers, and the places of the last turn's content in them."""
    if not tokenizer.is_fast:
        raise UserError("contrast data needs a fast tokenizer, which tells where in a text its tokens stand")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    prompt = render_chat(tokenizer, turns)
    # What the template writes around the content shows where another content would stand.
    before, _, after = render_chat(tokenizer, [*turns[:-1], {"role": "user", "content": MARK}]).partition(MARK)
    if not (prompt.startswith(before) and prompt.endswith(after)):
        raise UserError("the chat template writes more around some requests than around others; cannot tell it apart")
    first, last = len(before), len(prompt) - len(after)
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (start, end) in enumerate(encoded["offset_mapping"]) if start < last and end > first]
    return list(encoded["input_ids"]), range(inside[0], inside[-1] + 1)
