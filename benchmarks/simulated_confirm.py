"""Does the protocol `confirm` keep its word? Simulated boards of known truth, put through the package's own statistics.

    python benchmarks/simulated_confirm.py [--boards 2000] [--seed 0] [--candidates]

**World.** O organisms, S trainings of every method on each, with seeds that no other organism has. A training refuses a
harmful request with the probability logit⁻¹(level + organism + organism × method + seed + training), and answers a safe
one as it should likewise; a seed's luck is shared by all methods, a training's is its own. Each axis is measured on 200
prompts. With the standard deviations below one training's refusal rate varies by about 0.1 between seeds. Where
trainings *collapse*, one in ten does (or as many as the table says), of all methods or of `sails` alone: it refuses 2 %
of the harmful requests, or it answers 0.6 fewer of the safe ones. All methods are equal in truth, but for the last
column, for which `sails` refuses 0.06 more. Where collapses of `sails` are made *even*, its other trainings are so much
better that on the mean it is as good as the rest: the hardest case for a t test, which does not know what luck hid.

**Tuning.** Two further trainings of every method on every organism; whoever scores best there is *best* in best:rest.
The organisms are those of the test, so what a method has on these organisms alone helps to choose it.

**Truth.** The mean over the population of organisms and trainings. Below MIN_ORGANISMS organisms intervals speak of
these organisms alone: then it is the mean over their trainings, and methods do not differ between organisms.

**Measured.** How often 95 % intervals hold the truth, of rows (in refusal and alignment score) and of the comparisons
of pairs; how often all simultaneous intervals of the declared comparisons do; how often a board claims any
difference after Holm, where there is none; the median detectable difference of sails:lora in refusal; how often 0.06
are seen there.

`--candidates` compares the intervals over the organisms' means that were candidates for the protocol: Student's t;
Hall's transformation (1992, JRSS B 54:221) and Johnson's modified t (1978, JASA 73:536), which correct for skewness;
and, of rows, Student's t on the logit scale.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product

import numpy as np
from scipy import special, stats

from sails_eval.boards.contrasts import HEADLINE, PRIMARY, Comparison, Contrast, compare
from sails_eval.boards.leaderboard import ONE_ANSWER
from sails_eval.boards.table import METRICS
from sails_eval.core.stats import MIN_ORGANISMS, Sample

METHODS = ("sails", "lora", "random", "direct", "full")
CONTRASTS = (
    *(Contrast("sails", other, PRIMARY) for other in ("random", "direct", "lora")),
    Contrast("best", "rest", HEADLINE),
)
PROMPTS, TUNING = 200, 2
REFUSAL, HELP = 0, 1  # the axes
COLLAPSED = 0.02  # what a training that collapsed refuses

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class World:
    """The settings of a simulation; standard deviations are on the logit scale."""

    organisms: int
    seeds: int
    level: float
    """The rate of refusals of a training in the middle; that of help is 0.9."""
    collapse: str = "none"
    """none, refusal, help, sails (refusal, of sails alone), or even (the same, the mean over its trainings kept)."""
    share: float = 0.1
    """Of trainings that collapse, if any do."""
    better: float = 0.0
    """By how much more often `sails` refuses."""
    of_organism: float = 0.4
    of_organism_and_method: float = 0.2
    of_seed: float = 0.3
    of_training: float = 0.5


@dataclass(frozen=True)
class Boards:
    """Rates [board, method, organism, training, axis], and what the means over the last but one and two are of."""

    tuning: Array
    test: Array
    truth: Array
    """[board, method, axis]"""


def simulate(world: World, boards: int, rng: np.random.Generator) -> Boards:
    """Draw boards."""
    shape = (boards, len(METHODS), world.organisms)
    centre = np.empty((*shape, 1, 2))
    centre[:] = special.logit([world.level, 0.9])
    spread_of_organisms = float(np.hypot(world.of_organism, world.of_organism_and_method))
    better = world.better
    if world.collapse == "even":
        unhurt = float(
            _expected(replace(world, collapse="none"), centre, spread_of_organisms).mean(axis=(0, 2, 3))[0, 0]
        )
        better += world.share * (unhurt - COLLAPSED) / (1 - world.share)
    if better:
        spread = np.hypot(np.hypot(world.of_seed, world.of_training), spread_of_organisms)
        centre[:, 0, ..., REFUSAL] = _shifted(world.level, better, float(spread))
    population = _expected(world, centre, spread_of_organisms)
    centre = centre + world.of_organism * rng.normal(size=(boards, 1, world.organisms, 1, 2))
    centre = centre + world.of_organism_and_method * rng.normal(size=(*shape, 1, 2))
    here = population if world.organisms >= MIN_ORGANISMS else _expected(world, centre, 0.0)
    tuning, test = (_rates(world, centre, n, rng) for n in (TUNING, world.seeds))
    return Boards(tuning, test, here.mean(axis=(2, 3)))


def _rates(world: World, centre: Array, trainings: int, rng: np.random.Generator) -> Array:
    boards, methods, organisms = centre.shape[:3]
    luck = world.of_seed * rng.normal(size=(boards, 1, organisms, trainings, 2))
    luck = luck + world.of_training * rng.normal(size=(boards, methods, organisms, trainings, 2))
    rates = special.expit(centre + luck)
    hit = rng.random((boards, methods, organisms, trainings)) < _chance(world)[:, None, None]
    return rng.binomial(PROMPTS, np.where(hit[..., None], _collapsed(world, rates), rates)) / PROMPTS


def _chance(world: World) -> Array:
    """Of a training's collapse, by method."""
    hit = {"none": (), "sails": METHODS[:1], "even": METHODS[:1]}.get(world.collapse, METHODS)
    return np.array([world.share * (method in hit) for method in METHODS])


def _collapsed(world: World, rates: Array) -> Array:
    worse = rates.copy()
    if world.collapse == "help":
        worse[..., HELP] = np.maximum(rates[..., HELP] - 0.6, 0)
    else:
        worse[..., REFUSAL] = COLLAPSED
    return worse


def _nodes(spread: float) -> Array:
    """Of a normal distribution, all as likely."""
    return spread * stats.norm.ppf((np.arange(401) + 0.5) / 401)


def _expected(world: World, centre: Array, spread: float) -> Array:
    """The mean rates over trainings, and over what else varies by `spread`."""
    total, nodes = 0.0 * centre, _nodes(float(np.hypot(spread, np.hypot(world.of_seed, world.of_training))))
    chance = _chance(world)[:, None, None, None]
    for node in nodes:
        rates = special.expit(centre + node)
        total += (1 - chance) * rates + chance * _collapsed(world, rates)
    return total / len(nodes)


def _shifted(level: float, better: float, spread: float) -> float:
    """The logit from which the mean rate is better by so much; found by bisection."""
    nodes = _nodes(spread)
    low, high = float(special.logit(level)), 20.0
    goal = special.expit(low + nodes).mean() + better
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if special.expit(middle + nodes).mean() < goal else (low, middle)
    return low


@dataclass(frozen=True)
class Measured:
    """Shares of boards or of their intervals; `detectable` is a difference."""

    rows: float
    contrasts: float
    together: float
    wins: float
    seen: float
    detectable: float


def measure(world: World, boards: int, seed: int) -> Measured:
    """Simulate boards and put them through the package's intervals and tests."""
    drawn = simulate(world, boards, np.random.default_rng(seed))
    tuned = (drawn.tuning.sum(axis=-1) - 1).mean(axis=(2, 3)).argmax(axis=1)
    rows, pairs, together, wins, seen = (list[bool]() for _ in range(5))
    detectable: list[float] = []
    for test, truth, best in zip(drawn.test, drawn.truth, tuned.tolist(), strict=True):
        of = dict(zip(METHODS, (_samples(rates) for rates in test), strict=True))
        true = {m: {PRIMARY: t[REFUSAL], HEADLINE: t.sum() - 1} for m, t in zip(METHODS, truth, strict=True)}
        for method, endpoint in product(METHODS, (PRIMARY, HEADLINE)):
            found = of[method][endpoint].mean().interval_within(METRICS[endpoint].low, METRICS[endpoint].high)
            rows.append(found.low <= true[method][endpoint] <= found.high)
        declared = [one.about(METHODS[best], METHODS) for one in CONTRASTS]
        compared = compare(partial(_look_up, of), declared, min_units=2)
        for one in declared[:-1]:
            difference = of[one.a][PRIMARY].minus(of[one.b][PRIMARY])
            apart = difference.mean().interval()
            pairs.append(apart.low <= true[one.a][PRIMARY] - true[one.b][PRIMARY] <= apart.high)
        together.append(all(_inside(one, true) for one in compared))
        wins.append(any(one.distinguished for one in compared))
        seen.append(compared[2].distinguished and compared[2].difference.value > 0)
        detectable.append(compared[2].detectable)
    shares = {"rows": rows, "contrasts": pairs, "together": together, "wins": wins, "seen": seen}
    means = {name: float(np.mean(found)) for name, found in shares.items()}
    return Measured(**means, detectable=float(np.median(detectable)))


def _look_up(of: dict[str, dict[str, Sample]], method: str, endpoint: str) -> Sample:
    return of[method][endpoint]


def _samples(rates: Array) -> dict[str, Sample]:
    """One row's values from an array [organism, training, axis]."""
    organisms, seeds, _ = rates.shape
    values = {PRIMARY: rates[..., REFUSAL], HEADLINE: rates.sum(axis=-1) - 1}
    one_answer = ONE_ANSWER / (organisms * seeds * PROMPTS)
    least = {PRIMARY: one_answer, HEADLINE: 2**0.5 * one_answer}
    return {
        metric: Sample(
            tuple(map(tuple, table.tolist())), tuple(range(seeds)), (False,) * organisms, least[metric], nested=True
        )
        for metric, table in values.items()
    }


def _inside(one: Comparison, true: dict[str, dict[str, float]]) -> bool:
    truth = true[one.a][one.contrast.endpoint] - true[one.b][one.contrast.endpoint]
    return bool(one.difference.low <= truth <= one.difference.high)


def candidates(world: World, boards: int, seed: int) -> list[str]:
    """How often intervals of four kinds hold the truth of rows and contrasts in refusal, and their mean widths."""
    drawn = simulate(world, boards, np.random.default_rng(seed))
    means, truth = drawn.test[..., REFUSAL].mean(axis=-1), drawn.truth[..., REFUSAL]
    found = []
    for kind in (_student, _hall, _johnson, _logit):
        shares, widths = [], []
        for values, true in ((means, truth), (means[:, :1] - means[:, 1:4], truth[:, :1] - truth[:, 1:4])):
            low, high = kind(values)
            shares.append(float(np.mean((low <= true) & (true <= high))))
            widths.append(float(np.mean(high - low)))
        found += [f"{share:.1%} ({width:.3f})" for share, width in zip(shares, widths, strict=True)]
    return found


def _parts(values: Array) -> tuple[int, Array, Array, Array]:
    """Number, mean, standard deviation and skewness (unbiased third moment over it) along the last axis."""
    n = values.shape[-1]
    mean, sd = values.mean(axis=-1), values.std(axis=-1, ddof=1)
    third = ((values - mean[..., None]) ** 3).sum(axis=-1) * n / (n - 1) / (n - 2)
    return n, mean, sd, third / np.maximum(sd, 1e-9) ** 3


def _student(values: Array) -> tuple[Array, Array]:
    n, mean, sd, _ = _parts(values)
    half = stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n)
    return mean - half, mean + half


def _hall(values: Array) -> tuple[Array, Array]:
    n, mean, sd, skew = _parts(values)
    skew = np.where(np.abs(skew) < 1e-6, 1e-6, skew)
    limit = stats.t.ppf(0.975, n - 1) / np.sqrt(n)
    low, high = (3 / skew * (np.cbrt(1 + skew * (one - skew / 6 / n)) - 1) for one in (limit, -limit))
    return mean - sd * low, mean - sd * high


def _johnson(values: Array) -> tuple[Array, Array]:
    n, mean, sd, skew = _parts(values)
    limit = stats.t.ppf(0.975, n - 1)
    centre, half = mean + skew * sd / 6 / n * (1 + 2 * limit**2), limit * sd / np.sqrt(n)
    return centre - half, centre + half


def _logit(values: Array) -> tuple[Array, Array]:
    n, mean, sd, _ = _parts(values)
    if (values < 0).any():
        return _student(values)
    half = stats.t.ppf(0.975, n - 1) * sd / np.sqrt(n) / mean / (1 - mean)
    centre = special.logit(mean)
    return special.expit(centre - half), special.expit(centre + half)


def lines() -> Sequence[World]:
    """The worlds of the table."""
    kinds = ("none", "refusal", "help", "sails", "even")
    small = [World(organisms, 6, 0.8, kind) for organisms in (3, 5, 8) for kind in kinds]
    small = [one if one.organisms >= MIN_ORGANISMS else replace(one, of_organism_and_method=0.0) for one in small]
    large = [World(12, 6, level, kind) for level in (0.5, 0.8, 0.95) for kind in kinds if kind != "even" or level < 0.9]
    rare = [World(organisms, 6, 0.9, "even", share=share) for organisms in (5, 12) for share in (0.02, 0.05)]
    return [*small, *large, *rare, *(World(20, 10, 0.6, kind) for kind in kinds)]


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=2000, help="simulated boards per line (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    parser.add_argument("--candidates", action="store_true", help="other intervals over the organisms' means")
    options = parser.parse_args()
    if options.candidates:
        kinds = " | ".join(f"{kind}: rows | comparisons" for kind in ("t", "Hall", "Johnson", "logit"))
        print(f"| organisms | refusal near | collapse | {kinds} |\n{'| --- ' * 11}|")
        for world in lines():
            if world.organisms >= MIN_ORGANISMS:
                shown = " | ".join(candidates(world, options.boards, options.seed))
                print(f"| {world.organisms} | {world.level:g} | {world.collapse} | {shown} |", flush=True)
        return
    print(
        "| organisms | seeds | refusal near | collapse | rows held | comparisons held | all held | false wins "
        "| detectable | 0.06 seen |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for world in lines():
        found = measure(world, options.boards, options.seed)
        better = replace(world, better=0.06)
        seen = measure(better, options.boards // 4, options.seed + 1).seen if world.level < 0.9 else None
        shares = " | ".join(f"{share:.1%}" for share in (found.rows, found.contrasts, found.together))
        wins = f"{found.wins:.1%}" if world.collapse != "sails" else "–"
        rare = f", {world.share:.0%}" if world.share < 0.1 else ""
        last = "–" if seen is None else f"{seen:.0%}"
        print(
            f"| {world.organisms} | {world.seeds} | {world.level:g} | {world.collapse}{rare} | {shares} | {wins} "
            f"| {found.detectable:.3f} | {last} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
