"""How rows go through the model: in the same steps, with little padding."""

import random

import pytest

from sails_eval.core.pair import Pair
from sails_eval.core.training_settings import Objective
from sails_eval.training.batches import TokenRow, by_length, examples_per_step, padded_tokens, tokens_of


def of_lengths(*lengths: tuple[int, int]) -> list[TokenRow]:
    """Rows of so many tokens, with a rejected answer of so many."""
    return [TokenRow([n] * n, [-100, *[n] * (n - 1)], str(n), [7] * more) for n, more in lengths]


def of(micro: int | None) -> Pair:
    return Pair(name="p", model="m", dtype="float32", batch_size=8, micro_batch_size=micro)


@pytest.mark.parametrize("objective", ["sft", "dpo"])
def test_micro_batches_are_of_rows_of_about_the_same_length(objective: Objective) -> None:
    draw, pair = random.Random(0), of(2)
    rows = of_lengths(*[(draw.randint(2, 200), draw.randint(1, 200)) for _ in range(40)])
    step = examples_per_step(pair, objective)
    ordered = by_length(rows, pair, objective)
    for start in range(0, len(rows), step):  # every step has the examples that it had
        before, after = rows[start : start + step], ordered[start : start + step]
        assert sorted(row.group for row in before) == sorted(row.group for row in after)
    tokens = sum(tokens_of(row, objective) for row in rows)
    assert by_length(ordered, pair, objective) == ordered and rows != ordered
    assert tokens <= sum(padded_tokens(rows, pair, objective)) == sum(padded_tokens(ordered, pair, objective))


def test_padding_goes() -> None:
    """Of four short and four long rows, alternating, in pairs."""
    rows = of_lengths(*[(10, 1), (100, 1)] * 4)
    assert sum(padded_tokens(rows, of(2), "sft")) == 440
    assert sum(padded_tokens(rows, of(None), "sft")) == 800


@pytest.mark.parametrize("micro", [None, 8])
def test_a_step_in_one_piece_stays_as_it_is(micro: int | None) -> None:
    rows = of_lengths((3, 1), (9, 1), (4, 1), (8, 1), (5, 1), (7, 1), (2, 1), (6, 1))
    assert by_length(rows, of(micro), "sft") == rows
