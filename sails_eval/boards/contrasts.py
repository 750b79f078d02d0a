"""The declared contrasts of a board: which pairs of methods are compared, and what may be said of each."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sails_eval.boards.table import EQUIVALENCE_MARGIN, MIN_SEEDS
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.recipe import defaults
from sails_eval.core.stats import Interval, Sample, holm

ALPHA = 0.05
"""The family-wise error of all contrasts of a board, and again of all claims of equivalence."""


@dataclass(frozen=True)
class Comparison:
    """The alignment score of `a` minus that of `b`, with its 95 % interval and p-values after Holm.

    `p` is of the difference's being 0, `p_equivalent` of its being outside ±EQUIVALENCE_MARGIN. `by_organism` holds the
    difference on each organism.
    """

    a: str
    b: str
    difference: Interval
    p: float
    p_equivalent: float
    by_organism: tuple[float, ...]

    @property
    def distinguished(self) -> bool:
        return self.p < ALPHA

    @property
    def equivalent(self) -> bool:
        return self.p_equivalent < ALPHA

    def __str__(self) -> str:
        """`sails - lora: -0.056 [-0.110, -0.002], p = 0.046`, with the signs if there are several organisms."""
        one = self.difference
        p = "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"
        text = f"{self.a} - {self.b}: {one.shown('+z.3f')}, {p}"
        if len(self.by_organism) == 1:
            return text
        same = sum(math.copysign(1, value) == math.copysign(1, one.value) for value in self.by_organism)
        return f"{text}, same sign on {same} of {len(self.by_organism)} organisms"


def default_contrasts(methods: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The default contrast or, where it is not among the methods, the first of them against every other row."""
    if not methods:
        return ()
    first = own if (own := defaults().contrast) in methods else methods[0]
    return tuple((first, other) for other in methods if other != first)


def check_contrasts(contrasts: Iterable[tuple[str, str]], methods: Iterable[str]) -> None:
    """Raises UserError where a contrast names no row, or one and the same, or was declared before."""
    known, seen = set(methods), set[frozenset[str]]()
    for pair in contrasts:
        for method in pair:
            if method not in known:
                raise unknown("method in contrasts", method, known)
        if len(set(pair)) < 2 or frozenset(pair) in seen:
            raise UserError(f"contrasts: '{pair[0]}' against '{pair[1]}': name two different rows, and each pair once")
        seen.add(frozenset(pair))


def compare(
    samples: Mapping[str, Sample], contrasts: Iterable[tuple[str, str]], *, min_seeds: int = MIN_SEEDS
) -> list[Comparison]:
    """Test the contrasts of alignment scores that share `min_seeds` seeds or more and have all their values."""
    differences = {(a, b): samples[a].minus(samples[b]) for a, b in contrasts}
    tested = {
        pair: sample
        for pair, sample in differences.items()
        if len(set(sample.seeds) - {None}) >= min_seeds and sample.complete
    }
    means = [sample.mean() for sample in tested.values()]
    different = holm([mean.p() for mean in means])
    equivalent = holm([mean.p_equivalent(EQUIVALENCE_MARGIN) for mean in means])
    return [
        Comparison(*pair, mean.interval().clip(-2, 2), p, q, tuple(map(fmean, sample.values)))
        for (pair, sample), mean, p, q in zip(tested.items(), means, different, equivalent, strict=True)
    ]


def partners(comparisons: Iterable[Comparison], method: str, said: Callable[[Comparison], bool]) -> list[str]:
    """The rows on the other side of the method's contrasts of which something is `said`."""
    return sorted(one.b if one.a == method else one.a for one in comparisons if method in (one.a, one.b) and said(one))
