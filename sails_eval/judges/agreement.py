"""How far two raters agree, as pure functions of their labels. All intervals are 95 %."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sails_eval.core.stats import Interval, wilson

Weights = np.ndarray[Any, np.dtype[np.float64]]
"""How unlike two labels are, from 0 to 1: [labels, labels]."""


@dataclass(frozen=True)
class Agreement:
    """Cohen's κ with the share of items on which the raters agree; κ is None where one rater used one label only."""

    n: int
    kappa: Interval | None
    accuracy: Interval


def agreement(first: Sequence[Hashable], second: Sequence[Hashable], menu: Sequence[Hashable]) -> Agreement:
    """Cohen's κ of two raters who each put every item under one label of `menu`."""
    same = sum(one == other for one, other in zip(first, second, strict=True))
    unlike = 1 - np.eye(len(menu))
    return Agreement(len(first), _kappa(first, second, menu, unlike), wilson(same, len(first)))


def graded_kappa(first: Sequence[int], second: Sequence[int], menu: Sequence[int]) -> Interval | None:
    """Cohen's κ with quadratic weights: a disagreement counts by the square of the distance between the grades."""
    grades = np.array(menu, dtype=float)
    distance = (grades[:, None] - grades[None, :]) ** 2
    return _kappa(first, second, menu, distance / distance.max())


def _kappa(
    first: Sequence[Hashable], second: Sequence[Hashable], menu: Sequence[Hashable], unlike: Weights
) -> Interval | None:
    """κ = 1 − D/E with D the mean of `unlike` (0 to 1) over the items, E over all pairs of unconnected items.

    The interval is Wilson's of the agreement 1 − D, over so many items as give it the standard error that the delta
    method has for κ (Fleiss, Cohen & Everitt 1969, Psychological Bulletin 72:323), brought back to κ's scale. It
    keeps a width where the raters agree on everything, or one of them says the same of all items. In a simulation of
    2 × 2 tables with κ of 0.76 to 0.96 it covered 92–97 % at n = 100 and 94–96 % at n = 450; the symmetric interval
    covered 77–92 % and 89–94 %, the percentile bootstrap 74–94 % and 91–94 %.
    """
    place = {label: index for index, label in enumerate(menu)}
    table = np.zeros((len(menu), len(menu)))
    np.add.at(table, ([place[one] for one in first], [place[other] for other in second]), 1 / len(first))
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    disagreed, expected = float((table * unlike).sum()), float(rows @ unlike @ columns)
    if not expected:
        return None
    # what one item of each cell moves κ by, with the marginals' part in E
    in_margins = (unlike @ columns)[:, None] + (rows @ unlike)[None, :] - 2 * expected
    influence = (unlike - disagreed) / expected - disagreed / expected**2 * in_margins
    variance = float((table * influence**2).sum()) / len(first) * expected**2
    agreed = max(0.0, 1 - disagreed)  # of raters who never agree, rounding leaves less
    spread = agreed * disagreed
    effective = spread / variance if min(variance, spread) > 1e-12 else len(first)
    return wilson(agreed * effective, effective).scale(1 / expected, 1 - 1 / expected).clip(-1, 1)


def text_of(interval: Interval | None) -> str:
    """`0.93 [0.91, 0.95]`, or `undefined`."""
    if interval is None or math.isnan(interval.value):
        return "undefined"
    return interval.shown()
