"""Contrast texts, tokenised: aligned and unaligned ones, and which of their tokens are content and not template."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sails_eval.core.data_source import Mixture
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import Requests, read_contrast, read_requests
from sails_eval.methods.subspace.settings import ContrastKind, Positions
from sails_eval.models.chat import render_chat

MARK = "\u27e6request\u27e7"


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
    """Two classes of texts; where they are `paired`, the n-th of both answer the same request.

    `groups` are the categories of pairs, where they have any; `sources` names the labelled examples that they are made
    of, `rejected` their rejected answers.
    """

    aligned: Sequence[Text] = ()
    unaligned: Sequence[Text] = ()
    paired: bool = True
    sources: frozenset[str] = frozenset()
    rejected: frozenset[str] = frozenset()
    groups: Sequence[str] = ()

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


def check_contrast(pair: Pair, which: ContrastKind, method: str) -> None:
    """Raises UserError where the pair names no data of the kind that a method contrasts, `responses` or `requests`."""
    if which == "requests" and pair.requests is None:
        raise UserError(
            f"method '{method}' contrasts requests; name a file of them in the pair's YAML: 'requests: FILE', "
            "with rows of a prompt and harmful: true or false"
        )
    if which == "responses" and pair.contrast is None:
        raise UserError(
            f"method '{method}' needs contrast data (chosen and rejected answers to the same request); "
            "give --contrast FILE"
        )


def load_contrast(tokenizer: Any, pair: Pair, which: ContrastKind) -> Contrast:
    """The pair's contrast texts of one kind, which it has. Raises UserError where none of them is short enough."""
    source = pair.requests if which == "requests" else pair.contrast
    assert source is not None
    if which == "requests":
        assert not isinstance(source, Mixture)
        contrast = encode_requests(tokenizer, read_requests(source), pair.max_length)
    else:
        contrast = encode_contrast(tokenizer, read_contrast(source).examples, pair.max_length)
    if not (contrast.aligned and contrast.unaligned):
        raise UserError(f"{source}: every request is longer than max_length={pair.max_length} tokens")
    return contrast


def encode_contrast(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Contrast:
    """Pairs of answers: the request in the chat format, then only the content of either answer.

    Texts are cut at `max_length` tokens; pairs whose request alone reaches it, or without an answer, are left out.
    """
    aligned: list[Text] = []
    unaligned: list[Text] = []
    used: list[Example] = []
    for example in examples:
        start, request = _request(tokenizer, example.messages)
        answers = [
            tokenizer(text, add_special_tokens=False)["input_ids"] for text in (example.response, example.rejected)
        ]
        if len(start) < max_length and all(answers):
            used.append(example)
            for texts, answer in zip((aligned, unaligned), answers, strict=True):
                ids = (start + answer)[:max_length]
                texts.append(Text(ids, answer=range(len(start), len(ids)), request=request))
    sources = frozenset(example.label for example in used)
    rejected = frozenset(example.rejected_label for example in used)
    groups = tuple(example.group for example in used) if any(example.group for example in used) else ()
    return Contrast(aligned, unaligned, sources=sources, rejected=rejected, groups=groups)


def encode_requests(tokenizer: Any, requests: Requests, max_length: int) -> Contrast:
    """Harmless requests as aligned, harmful ones as unaligned; those longer than `max_length` tokens are left out."""

    sources: set[str] = set()

    def encoded(asked: Sequence[tuple[Message, ...]]) -> Iterator[Text]:
        for messages in asked:
            ids, request = _request(tokenizer, messages)
            if len(ids) <= max_length:
                sources.add(Example(messages, "").label)
                yield Text(ids, answer=range(0), request=request)

    harmless, harmful = list(encoded(requests.harmless)), list(encoded(requests.harmful))
    return Contrast(harmless, harmful, paired=False, sources=frozenset(sources))


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
