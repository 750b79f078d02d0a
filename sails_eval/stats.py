"""Intervals and tests, as pure functions of numbers. All intervals are 95 %, all tests two-sided.

The unit of replication is the seed: `t_interval` and `paired_t` take one value per seed. Rows without seeds
can only show how much the choice of prompts matters: `wilson` for one task, `combine` for means and sums
over tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def clip(self, low: float, high: float) -> Interval:
        """The interval cut at the bounds of what is estimated: a rate cannot leave 0 to 1."""
        return Interval(*(min(max(x, low), high) for x in (self.value, self.low, self.high)))

    def scale(self, factor: float, shift: float = 0.0) -> Interval:
        """The interval of `factor` × the estimate + `shift`, for a positive factor."""
        return Interval(*(factor * x + shift for x in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Contrast:
    """The difference of two methods with its 95 % interval, and the p-value of its being 0."""

    difference: Interval
    p: float


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of one value per seed with Student's interval. Raises ValueError below 2 values.

    Has no width where all values are equal: that says nothing about the prompts.
    """
    if len(values) < 2:
        raise ValueError(f"a t interval needs at least 2 values, got {len(values)}")
    mean = math.fsum(values) / len(values)
    # equal values have no spread, but rounding of their mean would leave some
    spread = float(np.std(values, ddof=1)) if min(values) < max(values) else 0.0
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def wilson(successes: float, n: int) -> Interval:
    """The share of successes in `n` independent trials, with Wilson's score interval.

    `successes` may be a sum of values between 0 and 1. The interval is then on the wide side, because such
    values vary no more than zeros and ones of the same mean do. Raises ValueError unless 0 ≤ successes ≤ n
    and n > 0.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n} trials")
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # in exact arithmetic the share lies inside; at 0 and 1 rounding could put it just outside
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def combine(parts: Sequence[tuple[float, Interval]], *, constant: float = 0.0) -> Interval:
    """The interval of constant + Σ weight × estimate, for independent estimates with intervals of their own.

    MOVER, the method of variance estimates recovery: each part adds the square of its own distance to the
    limit that matters (Newcombe 1998, Statistics in Medicine 17:873; Zou & Donner 2008, 27:1693). Unlike a
    normal approximation it keeps the skew of intervals near 0 and 1.
    """
    value = constant + math.fsum(weight * part.value for weight, part in parts)
    ends = [sorted((weight * part.low, weight * part.high)) for weight, part in parts]
    below = [weight * part.value - low for (weight, part), (low, _) in zip(parts, ends, strict=True)]
    above = [high - weight * part.value for (weight, part), (_, high) in zip(parts, ends, strict=True)]
    return Interval(value, value - math.hypot(*below), value + math.hypot(*above))


def paired_t(a: Sequence[float], b: Sequence[float]) -> Contrast:
    """a − b over the same seeds, with Student's paired test.

    A constant `b` makes it the one-sample test of `a` against that constant. Differences that are all equal
    have no spread to test against: p is 1 where they are 0, else 0. Raises ValueError below 2 pairs or at
    unequal lengths.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    interval = t_interval(differences)
    if math.isclose(interval.low, interval.high, rel_tol=0, abs_tol=1e-12):
        return Contrast(interval, 1.0 if abs(interval.value) < 1e-12 else 0.0)
    return Contrast(interval, float(stats.ttest_1samp(differences, 0.0).pvalue))


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: those below α keep the family-wise error below α."""
    adjusted, largest = [0.0] * len(pvalues), 0.0
    for place, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        largest = max(largest, min(1.0, (len(pvalues) - place) * pvalues[index]))
        adjusted[index] = largest
    return adjusted
