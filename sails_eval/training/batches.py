"""Tokenised examples and the order in which a seed sees them: the same for every method, laid out before any training.

Torch is not imported here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.training_settings import Objective
from sails_eval.data.dialogues import Example
from sails_eval.data.reading import read_examples
from sails_eval.data.sample import TrainingSample
from sails_eval.models.chat import ending_of, render_answer, render_chat
from sails_eval.models.loaded import base_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenRow:
    """One tokenised training example; labels are -100 wherever the loss does not look, which is on the request.

    `rejected_ids` is the rejected answer without its request; empty where there is none. `example` is what it is of.
    """

    input_ids: list[int]
    labels: list[int]
    group: str = ""
    rejected_ids: list[int] = field(default_factory=list)
    example: Example = field(default=Example((), ""), compare=False)

    @property
    def prompt_length(self) -> int:
        return self.labels.count(-100)


def encode_examples(tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[TokenRow]:
    """Tokenise examples in the chat format, with loss on the answer (and its end-of-turn) only.

    Examples are cut at `max_length` tokens; those whose request alone reaches it are left out.
    """
    rows, ending = [], ending_of(tokenizer)
    for example in examples:
        request = [{"role": m.role, "content": m.content} for m in example.messages]
        try:
            prompt = render_chat(tokenizer, request)
            start = _encode(tokenizer, prompt)
            room = max_length - len(start)
            if room <= 0:
                continue
            end, other = (
                [] if answer is None else _encode(tokenizer, render_answer(tokenizer, request, prompt, answer, ending))
                for answer in (example.response, example.rejected)
            )
        except UserError as error:
            raise UserError(f"request '{shorten(example.messages[-1].content, 40)}': {error}") from error
        rows.append(
            TokenRow(start + end[:room], [-100] * len(start) + end[:room], example.group, other[:room], example)
        )
    return rows


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids of what the chat template wrote: special tokens are its alone."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def lay_out(rows: Sequence[TokenRow], pair: Pair, *, seed: int, objective: Objective = "sft") -> list[int]:
    """The order in which a seed's cells see the examples: indices into `rows`, in batches of `examples_per_step`.

    A seed draws `pair.examples` of them (all where None), of every group its share, and passes over its sample, newly
    shuffled each time, until the first whole batch at which `pair.tokens` non-padding tokens are reached, or for
    `pair.steps` batches where it has these. All objectives walk the same way; one that learns from pairs passes over
    what has no rejected answer. Raises UserError where none of the sample has one.
    """
    rng = random.Random(f"training sample of seed {seed}")
    sample = _stratified(rows, rng)[: pair.examples]
    if not any(tokens_of(rows[index], objective) for index in sample):
        raise UserError(
            f"objective {objective} needs pairs of a chosen and a rejected answer, and the training data have none for "
            f"seed {seed}; give --train FILE with the fields chosen and rejected"
        )
    batch = examples_per_step(pair, objective)
    order: list[int] = []
    seen = 0
    for index in _passes(sample, rng):
        done = len(order) >= pair.steps * batch if pair.steps else seen >= pair.tokens
        if done and len(order) % batch == 0:
            break
        if tokens := tokens_of(rows[index], objective):
            order.append(index)
            seen += tokens
    return order


def training_sample(rows: Sequence[TokenRow], pair: Pair, *, seed: int, objective: Objective) -> TrainingSample:
    """The examples that a seed's cells see of their budget. Raises UserError as `lay_out` does."""
    seen = {rows[index].example.id: None for index in sorted(lay_out(rows, pair, seed=seed, objective=objective))}
    by_id = {row.example.id: row.example for row in reversed(rows)}
    return TrainingSample(tuple(map(by_id.__getitem__, seen)), any(row.example.harmful for row in rows))


def _passes(sample: list[int], rng: random.Random) -> Iterator[int]:
    """The sample over and over, newly shuffled each time."""
    while True:
        rng.shuffle(sample)
        yield from sample


def _stratified(rows: Sequence[TokenRow], rng: random.Random) -> list[int]:
    """All indices in a random order of which every beginning has the groups in the proportions of the whole."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group, []).append(index)
    shuffled = [rng.sample(groups[name], len(groups[name])) for name in sorted(groups)]
    return [index for _, index in sorted((i / len(part), index) for part in shuffled for i, index in enumerate(part))]


@dataclass(frozen=True)
class CellRun:
    """What varies between the cells of a recipe.

    `state` is what its initialisation starts from, if it has one, `checkpoints` how often it is saved.
    """

    learning_rate: float
    seed: int
    order: list[int]
    state: Mapping[str, torch.Tensor] | None = None
    checkpoints: int = 1


def saved_at(steps: int, checkpoints: int) -> list[int]:
    """After which of its steps a cell is saved: equally far apart, up to whole steps, the last one at its end."""
    return [-(-k * steps // checkpoints) for k in range(1, checkpoints + 1)]


SEQUENCES: dict[Objective, int] = {"sft": 1, "dpo": 2}
"""How many sequences of tokens an example is to each objective: DPO reads both answers, each behind its request."""


def tokens_of(row: TokenRow, objective: Objective) -> int:
    """What a row takes of the budget, in non-padding tokens; 0 where the objective cannot learn from it."""
    if objective == "sft":
        return len(row.input_ids)
    return len(row.input_ids) + rejected_tokens(row) if row.rejected_ids else 0


def rejected_tokens(row: TokenRow) -> int:
    """The tokens of the rejected answer behind its request."""
    return row.prompt_length + len(row.rejected_ids)


def examples_per_step(pair: Pair, objective: Objective) -> int:
    """How many examples make `pair.batch_size` sequences. Raises UserError where no whole number does."""
    examples, rest = divmod(pair.batch_size, SEQUENCES[objective])
    if rest:
        raise UserError(
            f"pair '{pair.name}': key 'batch_size' is {pair.batch_size}, but objective dpo needs an even number, since "
            "it trains on pairs of answers"
        )
    return examples


def micro_batch(pair: Pair, objective: Objective) -> int:
    """How many examples go through the model at a time."""
    sequences = (pair.micro_batch_size or pair.batch_size) // SEQUENCES[objective]
    return math.gcd(examples_per_step(pair, objective), max(1, sequences))


def by_length(rows: Sequence[TokenRow], pair: Pair, objective: Objective) -> list[TokenRow]:
    """The rows in the same steps, with rows of about the same length next to each other within every step.

    A micro-batch then has less padding. The loss is that of the whole step, so it changes by rounding alone; a step
    that is a single micro-batch stays as it is.
    """
    step, micro = examples_per_step(pair, objective), micro_batch(pair, objective)
    if micro == step:
        return list(rows)
    steps = (rows[i : i + step] for i in range(0, len(rows), step))
    return [row for one in steps for row in sorted(one, key=lambda row: _length(row, objective), reverse=True)]


def padded_tokens(rows: Sequence[TokenRow], pair: Pair, objective: Objective) -> list[int]:
    """The tokens of every batch that goes through the model, with its padding."""
    micro, rows = micro_batch(pair, objective), by_length(rows, pair, objective)
    batches = (rows[i : i + micro] for i in range(0, len(rows), micro))
    return [SEQUENCES[objective] * len(one) * max(_length(row, objective) for row in one) for one in batches]


def _length(row: TokenRow, objective: Objective) -> int:
    """The tokens of the longest sequence that a row is to the objective."""
    return len(row.input_ids) if objective == "sft" else max(len(row.input_ids), rejected_tokens(row))


def training_rows(pair: Pair) -> list[TokenRow]:
    """The pair's training data, by the tokenizer of its model that this process holds."""
    return encoded_training(base_of(pair).tokenizer, pair)


@lru_cache(maxsize=1)
def encoded_training(tokenizer: Any, pair: Pair) -> list[TokenRow]:
    """The pair's training data. Raises UserError where no example is short enough."""
    assert pair.train is not None
    examples = read_examples(pair.train).examples
    try:
        rows = encode_examples(tokenizer, examples, pair.max_length)
    except UserError as error:
        raise UserError(f"{pair.train}: {error}") from error
    if not rows:
        raise UserError(
            f"{pair.train}: every request is longer than max_length={pair.max_length} tokens; give a larger "
            "--max-length"
        )
    return rows
