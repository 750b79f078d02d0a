"""The declared comparisons of a board: which rows are compared in which metric, and the results.

A `Contrast` is a declared comparison, a `Comparison` its result. Columns of boards and keys of
run.json have the earlier name, `contrasts`, so that what was published stays readable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from sails_eval.boards.table import EQUIVALENCE_MARGIN, METRICS, MIN_SEEDS
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.fingerprint import digest
from sails_eval.core.recipe import defaults
from sails_eval.core.stats import Interval, Mean, Sample, holm, p_text

ALPHA = 0.05
"""The family-wise error of all comparisons of a board, and again of all claims of equivalence."""

POWER = 0.8
"""The power with which a detectable difference is detected."""

HEADLINE = "alignment_score"
"""What an exploratory board compares, and what says which row is best."""

PRIMARY = "refusal_rate"
"""What a confirmatory board compares."""

EXPLORED = ("harm_score",)
"""The secondary endpoint of an exploratory board: the paper's own metric."""

SECONDARY = (HEADLINE, "harm_score", "over_refusal_rate", "helpfulness")
"""The secondary endpoints of a confirmatory board."""

BEST, REST = "best", "rest"
"""Not rows: the comparison best:rest is that of the row that is best on tuning with every other trained one."""

HASHED = {"comparisons": "contrasts"}
"""What is hashed under its earlier name, so that the protocols and seeds of published boards are found again."""

Samples = Callable[[str, str], Sample]
"""A row's values of a metric."""


@dataclass(frozen=True)
class Contrast:
    """The rows `a` and `b`, and the metric in which they are compared.

    With `rivals`, `a` has to beat all of them: an intersection-union test, whose p-value is the largest of theirs
    (Berger 1982, Technometrics 24:295).
    """

    a: str
    b: str
    endpoint: str = HEADLINE
    rivals: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.a}:{self.b}@{self.endpoint}"

    @property
    def told(self) -> list[str]:
        """The rows, with the metric where it is not the headline."""
        return [self.a, self.b, *([] if self.endpoint == HEADLINE else [self.endpoint])]

    @classmethod
    def of(cls, told: Sequence[str]) -> Contrast:
        """The contrast of which that is `told`."""
        return cls(told[0], told[1], told[2] if len(told) > 2 else HEADLINE)

    @property
    def of_best(self) -> bool:
        return (self.a, self.b) == (BEST, REST)

    def about(self, best: str, trained: Sequence[str]) -> Contrast:
        """Of best:rest, the same about these rows; any other contrast as it is."""
        return replace(self, a=best, rivals=tuple(one for one in trained if one != best)) if self.of_best else self


@dataclass(frozen=True)
class Design:
    """What a board tests: its comparisons, and the endpoints in which they are tested besides their own."""

    contrasts: tuple[Contrast, ...]
    secondary: tuple[str, ...] = EXPLORED


@dataclass(frozen=True)
class Comparison:
    """The endpoint of `a` minus that of `b`; of several rivals, `b` is the one with the weakest evidence.

    `difference` has an interval that is simultaneous over the board's comparisons (Bonferroni: 1 − α / their number);
    with rivals it is about the least of their differences. `p` tests that the difference is 0, `p_equivalent` that it
    is outside ±EQUIVALENCE_MARGIN, both after Holm. `detectable` is the difference (to every rival) that would have
    been detected with POWER. `by_organism` holds the difference on each organism.
    """

    contrast: Contrast
    b: str
    difference: Interval
    p: float
    p_equivalent: float
    detectable: float
    by_organism: tuple[float, ...]

    @property
    def a(self) -> str:
        return self.contrast.a

    def about(self, method: str) -> bool:
        """Whether it is of this row and one other."""
        return method in (self.a, self.b) and not self.contrast.rivals

    def partner(self, method: str) -> str:
        """The row on the other side: `lora`, or `lora (refusal)` where that is what they are compared in."""
        other, endpoint = self.b if self.a == method else self.a, self.contrast.endpoint
        return other if endpoint == HEADLINE else f"{other} ({METRICS[endpoint].title})"

    @property
    def distinguished(self) -> bool:
        return self.p < ALPHA

    @property
    def equivalent(self) -> bool:
        return self.p_equivalent < ALPHA

    def __str__(self) -> str:
        """`sails - lora, refusal: +0.010 [-0.040, +0.060], p = 0.800, not distinguished, could have detected 0.050`.

        With the signs if there are several organisms.
        """
        one, endpoint = self.difference, self.contrast.endpoint
        rest = " (best on tuning) - all other trained rows, of which the nearest is" if self.contrast.rivals else " -"
        text = f"{self.a}{rest} {self.b}, {METRICS[endpoint].title}: {one.shown('+z.3f')}, {p_text(self.p)}"
        if self.contrast.rivals and one.high < 0:
            text += f", not the best: {self.b} is above it"
        elif not self.distinguished:
            text += f", not distinguished (this design could have detected {self.detectable:.3f})"
        if len(self.by_organism) == 1:
            return text
        signs = [value * (one.value or 1) > 0 for value in self.by_organism if value]
        same = sum(signs) if one.value else max(signs.count(True), signs.count(False))
        return f"{text}, same sign on {same} of {len(self.by_organism)} organisms"


def as_hashed(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is told, by the keys that are hashed."""
    return {HASHED.get(key, key): value for key, value in told.items()}


def protocol_hash(told: Mapping[str, Any]) -> str:
    """The hash by which the rows of a board name the protocol that says this."""
    return digest(as_hashed(told))


def default_contrasts(methods: Sequence[str]) -> tuple[Contrast, ...]:
    """The default contrast or, where it is not among the methods, the first of them against every other row."""
    if not methods:
        return ()
    first = own if (own := defaults().compared) in methods else methods[0]
    return tuple(Contrast(first, other) for other in methods if other != first)


def default_design(seeds: Mapping[str, int]) -> Design:
    """What a board tests where nothing was declared, by each row's number of seeds: trained rows come first."""
    return Design(default_contrasts(sorted(seeds, key=lambda method: not seeds[method])))


def check_contrasts(contrasts: Iterable[Contrast], methods: Iterable[str]) -> None:
    """Raises UserError where a contrast names no row or metric, or one and the same row, or was declared before."""
    known, seen = set(methods), set[tuple[frozenset[str], str]]()
    for one in contrasts:
        for method in (one.a, *(one.rivals or (one.b,))) if not one.of_best else ():
            if method not in known:
                raise unknown("method in comparisons", method, known)
        if one.endpoint not in METRICS:
            raise unknown("metric in comparisons", one.endpoint, METRICS)
        key = (frozenset((one.a, one.b)), one.endpoint)
        if one.a == one.b or key in seen:
            raise UserError(f"comparisons: '{one.a}' against '{one.b}': name two different rows, and each pair once")
        seen.add(key)


def compare(samples: Samples, contrasts: Iterable[Contrast], *, min_units: int = MIN_SEEDS) -> list[Comparison]:
    """Test the comparisons that have all their values, of `min_units` seeds or organisms or more.

    Comparisons with missing values stay in the family: the correction of the others does not become smaller.
    """
    differences = {one: _differences(samples, one) for one in contrasts}
    tested = {
        one: found
        for one, found in differences.items()
        if found and all(other.units >= min_units and other.complete for other in found.values())
    }
    nearest = {one: _nearest(one, found) for one, found in tested.items()}
    means = {one: tested[one][b].mean() for one, b in nearest.items()}
    untested = [1.0] * (len(differences) - len(tested))
    different = holm([*(_p(one, tested[one][b]) for one, b in nearest.items()), *untested])[: len(tested)]
    pairs = [one for one in tested if not one.rivals]
    level = holm([*(means[one].p_equivalent(EQUIVALENCE_MARGIN) for one in pairs), *untested])
    equivalent = dict(zip(pairs, level, strict=False))
    alpha = ALPHA / max(1, len(differences))
    found = []
    for (one, b), p in zip(nearest.items(), different, strict=True):
        span = METRICS[one.endpoint].high - METRICS[one.endpoint].low
        apart, seen = _against_all({other: sample.mean() for other, sample in tested[one].items()}, b, alpha)
        signs = tuple(map(fmean, tested[one][b].values))
        found.append(Comparison(one, b, apart.clip(-span, span), p, equivalent.get(one, 1.0), seen, signs))
    return found


def _against_all(means: Mapping[str, Mean], nearest: str, alpha: float) -> tuple[Interval, float]:
    """The interval of the least difference to all rivals, at 1 − α, and what would be seen of each with POWER that all
    are. Of one rival, its own.

    The least lower end is above 0 just where every rival is beaten; only the upper ends need a correction (Bonferroni),
    as does the power: rivals are missed together as little as each alone is missed by its share.
    """
    rivals = len(means)
    low = min(mean.interval(1 - alpha).low for mean in means.values())
    high = min(mean.interval(1 - alpha / rivals).high for mean in means.values())
    value = means[nearest].value
    power = 1 - (1 - POWER) / rivals
    seen = max(mean.detectable(alpha=alpha, power=power) for mean in means.values())
    return Interval(value, low, max(high, value)), seen


def _differences(samples: Samples, contrast: Contrast) -> dict[str, Sample]:
    """By rival."""
    mine = samples(contrast.a, contrast.endpoint)
    return {b: mine.minus(samples(b, contrast.endpoint)) for b in contrast.rivals or (contrast.b,)}


def _nearest(contrast: Contrast, differences: Mapping[str, Sample]) -> str:
    """The rival with the weakest evidence (largest p-value); of equal ones the one that scores most."""
    return max(differences, key=lambda b: (_p(contrast, differences[b]), -differences[b].mean().value))


def _p(contrast: Contrast, difference: Sample) -> float:
    """The p-value of a difference; where `a` has to beat its rivals, 1 if it scores no more than this one.

    Two-sided all the same: at 2.5 % each way the test holds its level even if `a` were picked on the test itself.
    """
    mean = difference.mean()
    return mean.p() if not contrast.rivals or mean.value > 0 else 1.0


def compare_secondary(samples: Samples, design: Design, *, min_units: int = MIN_SEEDS) -> list[Comparison]:
    """The comparisons of pairs of rows in the secondary endpoints, each endpoint a family of its own."""
    found = []
    for endpoint in design.secondary:
        pairs = [replace(one, endpoint=endpoint) for one in design.contrasts if not one.rivals]
        own = {(one.a, one.b, one.endpoint) for one in design.contrasts}
        fresh = dict.fromkeys(one for one in pairs if (one.a, one.b, one.endpoint) not in own)
        found += compare(samples, fresh, min_units=min_units)
    return found


def partners(comparisons: Iterable[Comparison], method: str, said: Callable[[Comparison], bool]) -> list[str]:
    """The rows on the other side of the method's comparisons of which something is `said`, with the metric where that
    is not the headline. best:rest is left out: only its own text describes it."""
    return sorted({one.partner(method) for one in comparisons if one.about(method) and said(one)})
