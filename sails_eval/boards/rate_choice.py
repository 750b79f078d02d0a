"""The choice of a method's learning rate, and how much it depends on single seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sails_eval.core.errors import UserError

COARSE = 0.3
"""A rate whose every neighbour scores less by more than this stands alone: the best may lie between them."""


@dataclass(frozen=True)
class Choice:
    """The learning rate chosen for a method, and each rate's mean validation alignment score, ascending.

    `left_out` has for every seed the rate that the other seeds choose, which is where the seed is tested: its own
    luck on validation has then no part in its being chosen. Empty where there is nothing to choose.
    """

    method: str
    learning_rate: float | None
    scores: tuple[tuple[float, float], ...] = ()
    left_out: tuple[tuple[int | None, float], ...] = ()

    def rate_of(self, seed: int | None) -> float | None:
        return dict(self.left_out).get(seed, self.learning_rate)

    @property
    def contenders(self) -> tuple[float | None, ...]:
        """The rates that need test answers: the chosen one, then those that are chosen when a seed is left out."""
        others = {rate for _, rate in self.left_out} - {self.learning_rate}
        return (self.learning_rate, *sorted(others))

    @property
    def settled(self) -> bool:
        """Whether no single seed matters for the choice."""
        return len(self.contenders) == 1

    @property
    def edge(self) -> bool:
        """Whether the chosen rate is the lowest or highest of more than two: the best may lie outside."""
        rates = [rate for rate, _ in self.scores]
        return len(rates) > 2 and self.learning_rate in (rates[0], rates[-1])

    @property
    def coarse(self) -> bool:
        """Whether the chosen rate has neighbours on both sides that score less by more than COARSE."""
        for (_, below), (rate, chosen), (_, above) in zip(self.scores, self.scores[1:], self.scores[2:], strict=False):
            if rate == self.learning_rate:
                return max(below, above) < chosen - COARSE
        return False

    @property
    def warnings(self) -> list[str]:
        told = []
        if self.edge:
            grid = f"{self.scores[0][0]:.3g} to {self.scores[-1][0]:.3g}"
            told.append(
                f"learning rate {self.learning_rate:.3g} is at the edge of its grid ({grid}), so a better one may lie "
                "outside"
            )
        if len(self.scores) == 2:
            told.append("only two learning rates were tried, so a better one may lie elsewhere")
        if self.coarse:
            told.append(
                f"on validation both neighbours of learning rate {self.learning_rate:.3g} score lower by more than "
                f"{COARSE}, so a finer grid may find a better one"
            )
        if not self.settled:
            rates = ", ".join(f"{rate:.3g}" for rate in self.contenders if rate is not None)
            told.append(f"the choice of the learning rate depends on single seeds ({rates})")
        return told


def choose(method: str, scores: Mapping[float, Mapping[int | None, float]]) -> Choice:
    """The choice among rates, given the alignment scores per rate and seed; see `choose_rates`."""
    seeds = sorted({seed for of_seed in scores.values() for seed in of_seed}, key=lambda seed: seed or 0)
    means = [(rate, _mean_over(of_seed, seeds)) for rate, of_seed in sorted(scores.items())]
    known = {rate: scores[rate] for rate, mean in means if not math.isnan(mean)}
    if not known:
        raise UserError(
            f"{method}: no learning rate has an alignment score on the validation split; it needs scored answers to "
            "harmful and to safe requests there"
        )

    def best(among: Sequence[int | None]) -> float:
        return min(known, key=lambda rate: (-_mean_over(known[rate], among), rate))

    left_out = [(seed, best([one for one in seeds if one != seed])) for seed in seeds] if len(seeds) > 1 else []
    return Choice(method, best(seeds), tuple(means), tuple(left_out))


def _mean_over(scores: Mapping[int | None, float], seeds: Sequence[int | None]) -> float:
    """NaN where a seed has no score. Rounded, since the last bits of a mean are no reason to prefer a rate."""
    return round(fmean(scores.get(seed, math.nan) for seed in seeds), 9)
