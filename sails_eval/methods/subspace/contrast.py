"""Contrast texts, tokenised: aligned and unaligned ones, and which of their tokens are content and not template."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import read_contrast, read_requests
from sails_eval.data.sample import TrainingSample
from sails_eval.methods.subspace.settings import ContrastKind, Positions
from sails_eval.models.chat import render_chat

MARK = "\u27e6request\u27e7"


@dataclass(frozen=True)
class Text:
    """A tokenised dialogue.

    `answer` and `request` are the places of the answer's content and of its request's; either may be empty. All other
    tokens are the template's or of earlier turns, and none of them counts but the one that the answer follows.
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
            "prompt_end": [(self.answer.start or len(self.ids)) - 1],
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

    def by_length(self) -> Contrast:
        """The same in order of length, so that batches have little padding; pairs, in that of the longer text, stay
        pairs."""

        def order(*sides: Sequence[Text]) -> list[int]:
            lengths = [max(len(text.ids) for text in texts) for texts in zip(*sides, strict=True)]
            return sorted(range(len(lengths)), key=lengths.__getitem__)

        if self.paired and self.unaligned:
            first = second = order(self.aligned, self.unaligned)
        else:
            first, second = order(self.aligned), order(self.unaligned)
        return replace(
            self,
            aligned=[self.aligned[i] for i in first],
            unaligned=[self.unaligned[i] for i in second],
            groups=[self.groups[i] for i in first] if self.groups else (),
        )

    def halves(self) -> tuple[Contrast, Contrast]:
        """A random split into halves, always the same one; pairs stay together."""

        def shuffled(texts: Sequence[Text]) -> list[Text]:
            return random.Random("split halves").sample(texts, len(texts))  # equal lengths have equal orders

        aligned, unaligned = shuffled(self.aligned), shuffled(self.unaligned)
        first, second = (Contrast(aligned[i::2], unaligned[i::2], self.paired) for i in (0, 1))
        return first, second


def check_contrast(pair: Pair, which: ContrastKind, method: str) -> None:
    """Raises UserError where the pair names no data of the kind that a method contrasts, `responses` or `requests`.

    Whether the training sample, if that is contrasted, holds such examples is seen where it is read.
    """
    if pair.contrast_examples == "sample":
        return
    if which == "requests" and pair.requests is None:
        raise UserError(
            f"method '{method}' contrasts requests; name a file of them in the pair's YAML: 'requests: FILE', "
            "with rows of a prompt and harmful: true or false"
        )
    if which == "responses" and pair.contrast is None:
        raise UserError(
            f"method '{method}' needs contrast data (chosen and rejected answers to the same request); "
            "give --contrast FILE, or leave --contrast-examples out"
        )


def load_contrast(
    tokenizer: Any, pair: Pair, which: ContrastKind, *, both: bool, seed: int | None, sample: TrainingSample
) -> Contrast:
    """The texts of one kind that an initialisation may look at, with those of `both` classes or the aligned ones only.

    That is the seed's training `sample`, of which anything is aligned where only that is asked for, or so many
    examples of the pair's data. Raises UserError where there are too few, or none is short enough.
    """
    source: Any = pair.train
    if pair.contrast_examples != "sample":
        source = pair.requests if which == "requests" else pair.contrast
    if which == "requests":
        harmless, harmful = _requests(pair, seed, sample)
        contrast = encode_requests(tokenizer, harmless, harmful if both else (), pair.max_length)
    elif both:
        contrast = encode_contrast(tokenizer, _pairs(pair, seed, sample), pair.max_length)
    else:
        examples = sample.examples if pair.contrast_examples == "sample" else _pairs(pair, seed, sample)
        contrast = encode_aligned(tokenizer, examples, pair.max_length)
    if not (contrast.aligned and (contrast.unaligned or not both)):
        raise UserError(f"{source}: every request is longer than max_length={pair.max_length} tokens")
    return contrast


def _pairs(pair: Pair, seed: int | None, sample: TrainingSample) -> Sequence[Example]:
    """The examples whose two answers are contrasted."""
    if pair.contrast_examples == "sample":
        return sample.pairs
    assert pair.contrast is not None
    return _drawn(read_contrast(pair.contrast).examples, pair, seed, what=f"pairs of {pair.contrast}")


def _requests(pair: Pair, seed: int | None, sample: TrainingSample) -> tuple[Sequence[Example], Sequence[Example]]:
    """The examples whose requests are contrasted: harmless and harmful ones."""
    if pair.contrast_examples == "sample":
        return sample.requests(harmful=False), sample.requests(harmful=True)
    assert pair.requests is not None
    found = read_requests(pair.requests)
    harmless, harmful = (
        _drawn([Example(messages, "") for messages in asked], pair, seed, what=f"{kind} requests of {pair.requests}")
        for kind, asked in (("harmless", found.harmless), ("harmful", found.harmful))
    )
    return harmless, harmful


def _drawn(examples: Sequence[Example], pair: Pair, seed: int | None, *, what: str) -> Sequence[Example]:
    """As many examples as may be looked at, drawn by the seed. Raises UserError where there are fewer."""
    n = pair.contrast_examples
    if not isinstance(n, int):
        return examples
    if n > len(examples):
        raise UserError(f"--contrast-examples {n}: more than the {len(examples)} {what}; give fewer, or all")
    return random.Random(f"contrast examples of seed {seed}").sample(examples, n)


def encode_contrast(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Contrast:
    """Pairs of answers: the request in the chat format, then only the content of either answer.

    Texts are cut at `max_length` tokens; pairs whose request alone reaches it, or without an answer, are left out.
    """
    aligned: list[Text] = []
    unaligned: list[Text] = []
    used: list[Example] = []
    for example in examples:
        assert example.rejected is not None
        asked = _request(tokenizer, example.messages)
        one, other = (_answered(tokenizer, asked, text, max_length) for text in (example.response, example.rejected))
        if one and other:
            used.append(example)
            aligned.append(one)
            unaligned.append(other)
    sources = frozenset(example.label for example in used)
    rejected = frozenset(example.rejected_label for example in used)
    groups = tuple(example.group for example in used) if any(example.group for example in used) else ()
    return Contrast(aligned, unaligned, sources=sources, rejected=rejected, groups=groups)


def encode_aligned(tokenizer: Any, examples: Sequence[Example], max_length: int) -> Contrast:
    """The aligned half of what `encode_contrast` makes, of examples that need no rejected answer."""
    asked = [(one, _request(tokenizer, one.messages)) for one in examples]
    texts = [(one, _answered(tokenizer, request, one.response, max_length)) for one, request in asked]
    sources = frozenset(example.label for example, text in texts if text)
    return Contrast([text for _, text in texts if text], sources=sources)


def _answered(tokenizer: Any, asked: tuple[list[int], range], answer: str, max_length: int) -> Text | None:
    """A request, as `_request` has it, with an answer, cut; None where no token of the answer is left."""
    start, request = asked
    ids = (start + tokenizer(answer, add_special_tokens=False)["input_ids"])[:max_length]
    return Text(ids, answer=range(len(start), len(ids)), request=request) if len(ids) > len(start) else None


def encode_requests(
    tokenizer: Any, harmless: Sequence[Example], harmful: Sequence[Example], max_length: int
) -> Contrast:
    """Harmless requests as aligned, harmful ones as unaligned; those longer than `max_length` tokens are left out."""
    sources: set[str] = set()

    def encoded(examples: Sequence[Example]) -> Iterator[Text]:
        for example in examples:
            ids, request = _request(tokenizer, example.messages)
            if len(ids) <= max_length:
                sources.add(example.label)
                yield Text(ids, answer=range(0), request=request)

    aligned, unaligned = list(encoded(harmless)), list(encoded(harmful))
    return Contrast(aligned, unaligned, paired=False, sources=frozenset(sources))


def _request(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], range]:
    """Token ids of a dialogue up to where the model answers, and the places of the last turn's content in them."""
    if not tokenizer.is_fast:
        raise UserError("contrast data needs a fast tokenizer, which gives the places of tokens in a text")
    turns = [{"role": message.role, "content": message.content} for message in messages]
    prompt = render_chat(tokenizer, turns)
    # What the template writes around the content shows where another content would stand.
    before, _, after = render_chat(tokenizer, [*turns[:-1], {"role": "user", "content": MARK}]).partition(MARK)
    if not (prompt.startswith(before) and prompt.endswith(after)):
        raise UserError(
            "the chat template's text around a request depends on the request, so the request's tokens cannot be "
            "located; give another template: --chat-template FILE"
        )
    first, last = len(before), len(prompt) - len(after)
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    inside = [i for i, (start, end) in enumerate(encoded["offset_mapping"]) if start < last and end > first]
    return list(encoded["input_ids"]), range(inside[0], inside[-1] + 1)
