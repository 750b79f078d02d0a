"""Texts as a model reads them: token ids cut into windows, of which some tokens are new and count."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from sails_eval.core.data_source import Mixture, Selection
from sails_eval.data.dialogues import Example
from sails_eval.data.reading import read_examples
from sails_eval.data.texts import running_texts
from sails_eval.models.chat import render_chat


@dataclass(frozen=True)
class Window:
    """Token ids of one forward pass, of which those from `start` on count.

    The first never does: whatever it is, models park attention there, and its activations are of another size.
    """

    ids: Sequence[int]
    start: int = 1

    @property
    def tokens(self) -> int:
        """How many count."""
        return len(self.ids) - self.start


def windows(tokenizer: Any, data: Path | Selection | Mixture, *, context: int, seed: int) -> Iterator[Window]:
    """Windows of up to `context` tokens of running texts, in their order, or of dialogues, in random order.

    Of preference data every dialogue comes with one of its two answers first, and after all of them with the other,
    of which only the answer counts: what both have in common is read once. Raises UserError where the data cannot be
    read.
    """
    texts = running_texts(data)
    found = _of_dialogues(tokenizer, data, context, seed) if texts is None else _of_texts(tokenizer, texts, context)
    return (window for window in found if window.tokens > 0)


def _of_texts(tokenizer: Any, texts: Iterator[str], context: int) -> Iterator[Window]:
    """Each text in pieces, all of which open with BOS where the model has one."""
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        step = context - len(opening)
        yield from (Window([*opening, *ids[at : at + step]]) for at in range(0, len(ids), step))


def _of_dialogues(tokenizer: Any, data: Path | Selection | Mixture, context: int, seed: int) -> Iterator[Window]:
    rng = random.Random(seed)
    examples = list(read_examples(data).examples)
    rng.shuffle(examples)
    rejected_first = [example.rejected is not None and rng.random() < 0.5 for example in examples]
    for example, rejected in zip(examples, rejected_first, strict=True):
        yield Window(_ids(tokenizer, example, context, rejected=rejected))
    for example, rejected in zip(examples, rejected_first, strict=True):
        if example.rejected is not None:
            seen, ids = (_ids(tokenizer, example, context, rejected=which) for which in (rejected, not rejected))
            shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(seen, ids, strict=False)))
            yield Window(ids, start=max(1, shared))


def answered(tokenizer: Any, example: Example, answer: str) -> str:
    """An example's dialogue with an answer, as the chat template writes it."""
    turns = [{"role": message.role, "content": message.content} for message in example.messages]
    return render_chat(tokenizer, [*turns, {"role": "assistant", "content": answer}], answered=True)


def _ids(tokenizer: Any, example: Example, context: int, *, rejected: bool) -> list[int]:
    """A dialogue in the chat template, with one of its answers, cut."""
    answer = example.rejected if rejected else example.response
    assert answer is not None
    text = answered(tokenizer, example, answer)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"][:context]
    return ids
