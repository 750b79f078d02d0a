"""Intervals and tests, as pure functions of numbers. Intervals are 95 %, tests two-sided unless they say so.

A `Sample` holds one value per organism and seed. Where organisms share their seeds, the unit of replication is the
seed and `crossed_mean` says how sure the mean is; where each has seeds of its own, it is the organism, and
`nested_mean` does. Rows with too few of either can only show how much the choice of prompts matters: `wilson` for one
task, `combine` for means and sums over tasks. `benchmarks/simulated_boards.py` and `simulated_confirm.py` measure what
all of this covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sails_eval.core.tables import interval_text

LEVEL = 0.95

MIN_ORGANISMS = 5
"""From so many organisms on, with seeds of their own, a mean is one over organisms; fewer are all that it is about."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval, of 95 % unless it says otherwise."""

    value: float
    low: float
    high: float

    def shown(self, form: str = "z.2f") -> str:
        return interval_text(self.value, self.low, self.high, form)

    def clip(self, low: float, high: float) -> Interval:
        """The interval cut at the bounds of what is estimated: a rate cannot leave 0 to 1."""
        return Interval(*(min(max(x, low), high) for x in (self.value, self.low, self.high)))

    def scale(self, factor: float, shift: float = 0.0) -> Interval:
        """The interval of `factor` × the estimate + `shift`, for a positive factor."""
        return Interval(*(factor * x + shift for x in (self.value, self.low, self.high)))


@dataclass(frozen=True)
class Mean:
    """A mean with its standard error and its degrees of freedom, after Student."""

    value: float
    error: float
    df: float

    def interval(self, level: float = LEVEL) -> Interval:
        half = self._margin((1 + level) / 2)
        return Interval(self.value, self.value - half, self.value + half)

    def interval_within(self, low: float, high: float) -> Interval:
        """The interval of what lies between these bounds, made on the logit scale by the delta method.

        Near a bound the values behind a mean are skewed towards the other one; there this reaches further than
        Student's, and nowhere beyond the bound (Brown, Cai & DasGupta 2001, Statistical Science 16:101, section 4.1).
        """
        share = (self.value - low) / (high - low)
        if not 0 < share < 1:
            return self.interval().clip(low, high)
        from scipy import special  # takes longer to import than all of this to compute, here and below

        half = self._margin((1 + LEVEL) / 2) / (high - low) / share / (1 - share)
        ends = special.expit(special.logit(share) + np.array([-half, half]))
        return Interval(self.value, *(low + (high - low) * float(end) for end in ends))

    def at_least(self) -> float:
        """The lower end of the one-sided 95 % interval."""
        return self.value - self._margin(LEVEL)

    def p(self) -> float:
        """The two-sided p-value of the true mean's being 0."""
        return 2 * self._above(abs(self.value))

    def p_equivalent(self, margin: float) -> float:
        """The p-value of the true mean's lying outside ±margin: two one-sided tests, the larger of theirs.

        Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15:657.
        """
        return self._above(margin - abs(self.value))

    def detectable(self, *, alpha: float, power: float) -> float:
        """The true mean that a two-sided test at `alpha` tells from 0 with this power, if the error is what it is here.

        From the noncentral t distribution, whose far tail is left out: for the power of 0.8 it holds less than 1e-6.
        """
        from scipy import special

        limit = special.stdtrit(self.df, 1 - alpha / 2)
        return self.error * float(special.nctdtrinc(self.df, 1 - power, limit))

    def _margin(self, level: float) -> float:
        from scipy import special

        return float(special.stdtrit(self.df, level)) * self.error

    def _above(self, distance: float) -> float:
        """The probability of an error beyond `distance`. Without spread there is none: 0, or a half at 0."""
        from scipy import special

        t = distance / self.error if self.error else math.copysign(math.inf, distance) if distance else 0.0
        return float(special.stdtr(self.df, -t))


def crossed_mean(values: Sequence[Sequence[float]], *, extra: float = 0.0, least: float = 0.0) -> Mean:
    """The mean of one value per organism (outer) and seed (inner), for other seeds and other organisms.

    Organisms and seeds are crossed random factors, for the same seed draws the same training sample on every
    organism: the variance is (MS_organisms + MS_seeds − MS_both) / (O·S) with Satterthwaite's degrees of freedom,
    which are not let below those of the shorter factor. Where that makes a narrower interval than taking the
    organisms as fixed, MS_seeds / (O·S) with S − 1, the latter counts. One organism gives Student's t over seeds,
    one seed that over organisms. `extra` is added to the variance; the standard error is never below `least`.
    Raises ValueError below 2 values.
    """
    table = np.asarray(values, dtype=float)
    if table.size < 2:
        raise ValueError(f"an interval needs at least 2 values, got {table.size}")
    mean = math.fsum(table.flat) / table.size
    if min(table.shape) == 1:
        return _floored(mean, _spread(table.ravel()) / table.size, table.size - 1, extra, least)
    organisms, seeds = table.shape
    of_organisms, of_seeds = seeds * _spread(table.mean(axis=1)), organisms * _spread(table.mean(axis=0))
    df_both = (organisms - 1) * (seeds - 1)
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + mean
    of_both = float((rest**2).sum()) / df_both
    fixed = _floored(mean, of_seeds / table.size, seeds - 1, extra, least)
    total = of_organisms + of_seeds - of_both
    if total <= 0:
        return fixed
    df = total**2 / (of_organisms**2 / (organisms - 1) + of_seeds**2 / (seeds - 1) + of_both**2 / df_both)
    either = _floored(mean, total / table.size, max(df, min(organisms, seeds) - 1), extra, least)
    return max(either, fixed, key=lambda one: one.interval().high)


def nested_mean(values: Sequence[Sequence[float]], *, extra: float = 0.0, least: float = 0.0) -> Mean:
    """The mean of one value per organism (outer) and seed (inner), where no two organisms share a seed.

    From MIN_ORGANISMS organisms on the mean is for other organisms: Student's t over their means. Of fewer it is for
    other trainings of these organisms only: Σ s² / S over O², with Satterthwaite's degrees of freedom. `extra` and
    `least` are as in `crossed_mean`. Raises ValueError for fewer organisms with one seed.
    """
    table = np.asarray(values, dtype=float)
    if len(table) >= MIN_ORGANISMS:
        return crossed_mean([table.mean(axis=1).tolist()], extra=extra, least=least)
    organisms, seeds = table.shape
    if seeds < 2:
        raise ValueError(f"an interval over {organisms} organisms needs at least 2 seeds of each")
    errors = np.array([_spread(of_seed) for of_seed in table]) / seeds
    total, squares = float(errors.sum()), float((errors**2).sum())
    df = (seeds - 1) * (total**2 / squares if squares else organisms)
    return _floored(math.fsum(table.flat) / table.size, total / organisms**2, df, extra, least)


def _spread(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    """The variance; equal values have none, but rounding of their mean would leave some."""
    return float(values.var(ddof=1)) if values.min() < values.max() else 0.0


def _floored(mean: float, variance: float, df: float, extra: float, least: float) -> Mean:
    return Mean(mean, max(math.sqrt(variance + extra), least), df)


def t_interval(values: Sequence[float]) -> Interval:
    """The mean of one value per seed with Student's interval. Raises ValueError below 2 values.

    Has no width where all values are equal: that says nothing about the prompts.
    """
    return crossed_mean([values]).interval()


@dataclass(frozen=True)
class Sample:
    """One metric of one row: a value per organism (outer) and seed (inner), and what its mean's error must hold.

    `seeds` is (None,) for a model that was not trained. Where the seeds are `nested`, those are the first organism's,
    and each of the others has as many of its own. `unsettled` says of every organism whether leaving out a seed
    changes the choice of the rate: the values, each from the rate that the other seeds choose, then hang together,
    because those choices share most of their seeds, and their spread alone says too little. The variance of their
    mean grows by s² / (S − 1), the term of Nadeau & Bengio (2003, Machine Learning 52:239) for leaving one out of S.
    `least` is the smallest standard error to believe.
    """

    values: tuple[tuple[float, ...], ...]
    seeds: tuple[int | None, ...]
    unsettled: tuple[bool, ...]
    least: float = 0.0
    nested: bool = False

    @property
    def units(self) -> int:
        """How many values its mean's error stands on: organisms, where they are the unit of replication, else seeds.

        0 for a model that was not trained.
        """
        if None in self.seeds:
            return 0
        return len(self.values) if self.nested and len(self.values) >= MIN_ORGANISMS else len(self.seeds)

    @property
    def complete(self) -> bool:
        return not any(math.isnan(value) for of_seed in self.values for value in of_seed)

    def mean(self) -> Mean:
        """The mean over organisms and seeds. Raises ValueError below 2 values."""
        hanging = [of_seed for of_seed, so in zip(self.values, self.unsettled, strict=True) if so]
        extra = math.fsum(_spread(np.array(of_seed)) / (len(of_seed) - 1) for of_seed in hanging)
        mean_of = nested_mean if self.nested else crossed_mean
        return mean_of(self.values, extra=extra / len(self.values) ** 2, least=self.least)

    def minus(self, other: Sample) -> Sample:
        """The differences over the seeds that both have. Without seeds a sample is a constant of each organism.

        Nested seeds pair up by their place: both samples have the same ones on every organism.
        """
        trained = [one for one in (self, other) if None not in one.seeds]
        common = tuple(seed for seed in trained[0].seeds if seed in trained[-1].seeds) if trained else (None,)
        pairs = zip(self._at(common), other._at(common), strict=True)
        values = tuple(tuple(a - b for a, b in zip(ones, others, strict=True)) for ones, others in pairs)
        unsettled = tuple(a or b for a, b in zip(self.unsettled, other.unsettled, strict=True))
        nested = any(one.nested for one in trained)
        return Sample(values, common, unsettled, math.hypot(*(one.least for one in trained)), nested)

    def _at(self, seeds: Sequence[int | None]) -> list[list[float]]:
        places = [0 if None in self.seeds else self.seeds.index(seed) for seed in seeds]
        return [[of_seed[place] for place in places] for of_seed in self.values]


def wilson(successes: float, n: float) -> Interval:
    """The share of successes in `n` independent trials, with Wilson's score interval.

    `successes` may be a sum of values between 0 and 1. The interval is then on the wide side, because such
    values vary no more than zeros and ones of the same mean do. `n` may be an effective number. Raises ValueError
    unless 0 ≤ successes ≤ n and n > 0.
    """
    from scipy import special

    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"{successes} successes of {n} trials")
    z = float(special.ndtri((1 + LEVEL) / 2))
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


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """The exact p-value of two models' being right equally often on the same prompts, by McNemar's test.

    For two models of one seed only: answers of several seeds to a prompt are no independent trials.
    """
    from scipy import stats

    first = sum(x and not y for x, y in zip(a, b, strict=True))
    second = sum(y and not x for x, y in zip(a, b, strict=True))
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def p_text(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`: no p-value is 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def holm(pvalues: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: those below α keep the family-wise error below α."""
    adjusted, largest = [0.0] * len(pvalues), 0.0
    for place, index in enumerate(sorted(range(len(pvalues)), key=pvalues.__getitem__)):
        largest = max(largest, min(1.0, (len(pvalues) - place) * pvalues[index]))
        adjusted[index] = largest
    return adjusted
