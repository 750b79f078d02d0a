"""Cohen's kappa: its value against scikit-learn's, its interval by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from sails_eval.core.stats import Interval
from sails_eval.judges.agreement import agreement, graded_kappa, text_of

MENU = (False, True)


def raters(table: list[list[int]]) -> tuple[list[bool], list[bool]]:
    """The labels of two raters whose 2 × 2 table is given."""
    pairs = [(bool(i), bool(j)) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [one for one, _ in pairs], [other for _, other in pairs]


@pytest.mark.parametrize("table", [[[230, 0], [8, 212]], [[20, 30], [10, 40]], [[0, 5], [7, 0]], [[9, 0], [0, 1]]])
def test_kappa_is_that_of_scikit_learn(table: list[list[int]]) -> None:
    first, second = raters(table)
    found = agreement(first, second, MENU)
    assert found.kappa is not None
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    assert -1 <= found.kappa.low <= found.kappa.value <= found.kappa.high <= 1
    assert found.accuracy.value == pytest.approx(np.mean(np.equal(first, second)))


def test_weighted_kappa_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    first = random.integers(1, 6, 300)
    second = np.clip(first + random.integers(-1, 2, 300), 1, 5)
    found = graded_kappa(first.tolist(), second.tolist(), (1, 2, 3, 4, 5))
    assert found is not None
    assert found.value == pytest.approx(cohen_kappa_score(first, second, weights="quadratic"))
    resampled = [
        cohen_kappa_score(first[at], second[at], weights="quadratic") for at in random.integers(0, 300, (200, 300))
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.02)


def test_an_interval_keeps_its_width_where_all_agree() -> None:
    found = agreement(*raters([[20, 0], [0, 20]]), MENU).kappa
    assert found is not None and found.value == 1 and found.low < 0.85 and found.high == 1


def test_raters_of_one_label_have_no_kappa() -> None:
    found = agreement([True] * 5, [True] * 5, MENU)
    assert found.kappa is None and found.accuracy.value == 1
    assert text_of(found.kappa) == "undefined"


@pytest.mark.parametrize(("cells", "n"), [((0.48, 0.008, 0.01, 0.502), 450), ((0.13, 0.04, 0.025, 0.805), 100)])
def test_intervals_cover_the_true_kappa(cells: tuple[float, ...], n: int) -> None:
    p = np.array(cells).reshape(2, 2)
    by_chance = p.sum(axis=0) @ p.sum(axis=1)
    true = (np.trace(p) - by_chance) / (1 - by_chance)
    tables = np.random.default_rng(0).multinomial(n, cells, size=400).reshape(-1, 2, 2)
    found = [agreement(*raters(table.tolist()), MENU).kappa for table in tables]
    covered = np.mean([one is not None and one.low <= true <= one.high for one in found])
    assert 0.92 <= covered <= 0.99


def test_intervals_read_as_people_write_them() -> None:
    assert text_of(Interval(0.934, 0.911, 0.95)) == "0.93 [0.91, 0.95]"


def test_raters_who_never_agree_have_a_kappa_below_0() -> None:
    found = agreement(*raters([[0, 2], [1, 0]]), MENU).kappa
    assert found is not None and -1 <= found.low <= found.value < 0
    graded = graded_kappa([1, 1, 5], [5, 5, 1], (1, 2, 3, 4, 5))
    assert graded is not None and -1 <= graded.low <= graded.value < 0


def test_a_rater_who_always_says_the_same_leaves_a_wide_interval() -> None:
    interval = graded_kappa([1, 2, 3, 4, 5], [1] * 5, (1, 2, 3, 4, 5))
    assert interval is not None
    assert interval.value == pytest.approx(0)
    assert interval.low < -0.1 and interval.high > 0.1


def test_raters_who_never_agree_have_an_interval() -> None:
    """Whatever rounding makes of no agreement at all."""
    for n in range(5, 80):
        said = agreement([True] * n, [False] * n, (False, True))
        assert said.kappa is not None and said.kappa.low < 1e-9 < said.kappa.high
