"""Do the board's intervals and tests keep their word? Simulated boards of known truth, put through the package's code.

    python benchmarks/simulated_boards.py [--boards 2000] [--plain] [--level 0.98] [--gap 0.05]

**World.** Every method has six learning rates, the best three nearly tied. An answer is right with the probability
logit⁻¹(level + rate + category + training + training × category), independently of other answers. A training's luck
is partly its seed's (shared by all methods and rates), partly its own, and the same on validation and test. Validation
(3 categories) and test (4 or 7) have different categories of 30 prompts each; their difficulties are fixed, and so is
how far a rate's test score is from what its validation score promises (the gap). Harmful and safe tasks are alike.
`sails`, `lora` and `random` are equal in truth, `full` is better, `base` is a constant. On several organisms each has
its own level, and each method its own on each.

**Truth.** For a row: the mean test score, on these categories, of a new training at a rate chosen on the validation of
S − 1 seeds, S being the board's. It averages over the rates by how often they are chosen, because another run of the
same board might choose another one. For a comparison: the difference of two rows' truths. On several organisms: the
mean over the population that they are drawn from.

**Measured.** How often the 95 % intervals of rows and of the comparisons of sails with lora, random and full hold the
truth, and how often a board claims a difference of sails from lora or random after Holm (family-wise false wins).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import special, stats

from sails_eval.boards.contrasts import compare, default_contrasts
from sails_eval.boards.leaderboard import ONE_ANSWER
from sails_eval.boards.rate_choice import Choice, choose
from sails_eval.core.stats import Sample

METHODS = ("sails", "lora", "random", "full")
"""The first three are equal in truth."""

RATES = np.array([-1.2, -0.3, 0.0, 0.05, 0.0, -0.6])
"""What each learning rate adds to the logit."""

GAP = np.array([1, -1, 1, -1, 1, -1])
"""The direction in which a rate's test differs from its validation."""

PROMPTS = 30

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@dataclass(frozen=True)
class World:
    """The settings of a simulation; standard deviations are on the logit scale."""

    level: float
    """The probability of a right answer at a rate that adds nothing."""
    seeds: int
    categories: int
    organisms: int = 1
    better: float = 1.0
    """What `full` adds."""
    gap: float = 0.05
    category: float = 0.5
    of_seed: float = 0.2
    of_training: float = 0.4
    of_training_and_category: float = 0.3
    of_organism: float = 0.3
    of_organism_and_method: float = 0.15


@dataclass(frozen=True)
class Boards:
    """Alignment scores [board, organism, method, rate, seed], and what to expect on the test, without the last axis."""

    validation: Array
    test: Array
    expected: Array


def simulate(world: World, boards: int, rng: np.random.Generator) -> Boards:
    """Draw boards."""
    shape = (boards, world.organisms, len(METHODS), len(RATES), world.seeds)
    validation, test, expected = (np.full(size, -1.0) for size in (shape, shape, shape[:-1]))
    centre = special.logit(world.level) + RATES + np.array([0, 0, 0, world.better])[:, None]
    centre = np.broadcast_to(centre, shape[:-1]).copy()
    if world.organisms > 1:
        centre += world.of_organism * rng.normal(size=(*shape[:2], 1, 1))
        centre += world.of_organism_and_method * rng.normal(size=(*shape[:3], 1))
    for _kind in ("harmful", "safe"):
        luck = world.of_seed * rng.normal(size=(boards, 1, 1, 1, world.seeds)) + world.of_training * rng.normal(
            size=shape
        )
        for scores, categories, shift in ((validation, 3, 0.0), (test, world.categories, world.gap * GAP)):
            logits = (centre + shift)[..., None] + luck
            for difficulty in _difficulties(world, categories):
                own = world.of_training_and_category * rng.normal(size=shape)
                right = rng.binomial(PROMPTS, special.expit(logits + difficulty + own))
                scores += right / PROMPTS / categories
        expected += _expected(world, centre + world.gap * GAP)
    return Boards(validation, test, expected)


def _difficulties(world: World, categories: int) -> Array:
    return world.category * stats.norm.ppf((np.arange(categories) + 0.5) / categories)


def _expected(world: World, centre: Array) -> Array:
    """The mean of the rate of right answers over trainings and categories, by Gauss–Hermite quadrature."""
    spread = np.sqrt(world.of_seed**2 + world.of_training**2 + world.of_training_and_category**2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    difficulties = _difficulties(world, world.categories)
    values = [
        weight * special.expit(centre + difficulty + spread * node)
        for difficulty in difficulties
        for node, weight in zip(nodes, weights, strict=True)
    ]
    mean: Array = np.sum(values, axis=0) / weights.sum() / len(difficulties)
    return mean


@dataclass(frozen=True)
class Measured:
    """Shares of boards: intervals that hold the truth, of rows and of contrasts, and any false win."""

    rows: float
    contrasts: float
    false_wins: float


def measure(world: World, boards: int, seed: int, *, plain: bool = False) -> Measured:
    """Simulate boards and put them through the package's choice of rates, intervals and tests.

    `plain` does without what the package adds to Student's t: every seed is tested at the rate that all of them
    choose, nothing widens intervals where that choice is unsettled, and seeds that agree leave no width.
    """
    drawn = simulate(world, boards, np.random.default_rng(seed))
    rows, promised = [], []
    for validation, test, expected in zip(drawn.validation, drawn.test, drawn.expected, strict=True):
        made = [_row(world, validation[:, m], test[:, m], expected[:, m], plain) for m in range(len(METHODS))]
        rows.append(dict(zip(METHODS, (sample for sample, _ in made), strict=True)))
        promised.append([promise for _, promise in made])
    *equal, better = np.mean(promised, axis=0).tolist()
    truth = {**dict.fromkeys(METHODS[:-1], float(np.mean(equal))), METHODS[-1]: better}
    poor = 2 * float(special.expit(special.logit(world.level) - 2)) - 1
    base = Sample(((poor,),) * world.organisms, (None,), (False,) * world.organisms)
    held, held_differences, wins = [], [], []
    for samples in rows:
        intervals = [samples[method].mean().interval() for method in METHODS]
        held += [i.low <= truth[m] <= i.high for m, i in zip(METHODS, intervals, strict=True)]
        of = {**samples, "base": base}
        compared = compare(partial(_look_up, of), default_contrasts([*METHODS, "base"]), min_units=2)
        among = [one for one in compared if one.b != "base"]
        apart = [(samples[one.a].minus(samples[one.b]).mean().interval(), truth[one.a] - truth[one.b]) for one in among]
        held_differences += [interval.low <= true <= interval.high for interval, true in apart]
        wins.append(any(one.distinguished for one in among if one.b != METHODS[-1]))
    return Measured(float(np.mean(held)), float(np.mean(held_differences)), float(np.mean(wins)))


def _look_up(of: dict[str, Sample], method: str, endpoint: str) -> Sample:
    return of[method]


def _row(world: World, validation: Array, test: Array, expected: Array, plain: bool) -> tuple[Sample, float]:
    """One method's sample from arrays [organism, rate, seed], and its mean expected score at its rates."""
    seeds = range(world.seeds)
    choices, values, promises = [], [], []
    for of_rate, tested, hoped in zip(validation.tolist(), test.tolist(), expected.tolist(), strict=True):
        choice = choose("", {float(rate): dict(enumerate(scores)) for rate, scores in enumerate(of_rate)})
        choice = Choice("", choice.learning_rate) if plain else choice
        rates = [int(choice.rate_of(seed) or 0) for seed in seeds]
        choices.append(choice)
        values.append(tuple(tested[rate][seed] for seed, rate in zip(seeds, rates, strict=True)))
        promises.append([hoped[rate] for rate in rates])
    answers = PROMPTS * world.categories * world.seeds * world.organisms
    least = 0.0 if plain else 2**0.5 * ONE_ANSWER / answers
    unsettled = tuple(not choice.settled for choice in choices)
    return Sample(tuple(values), tuple(seeds), unsettled, least), float(np.mean(promises))


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", type=int, default=2000, help="simulated boards per line (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    parser.add_argument("--plain", action="store_true", help="Student's t at one chosen rate, as a comparison")
    parser.add_argument("--level", type=float, action="append", help="rates to try (default: 0.02, 0.5, 0.98)")
    parser.add_argument("--gap", type=float, default=World.gap, help=f"validation to test (default: {World.gap})")
    options = parser.parse_args()
    print("| organisms | seeds | categories | rate near | rows held | comparisons held | false wins |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for organisms, seeds, categories in (*((1, s, c) for s in (3, 5, 10) for c in (4, 7)), (3, 10, 4)):
        for level in options.level or (0.02, 0.5, 0.98):
            world = World(level, seeds, categories, organisms, gap=options.gap)
            found = measure(world, options.boards, options.seed, plain=options.plain)
            shares = " | ".join(f"{share:.1%}" for share in (found.rows, found.contrasts, found.false_wins))
            print(f"| {organisms} | {seeds} | {categories} | {level:g} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
