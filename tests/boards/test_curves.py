"""Curves with known answers."""

import math
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from sails_eval.boards import leaderboard
from sails_eval.boards.contrasts import Contrast
from sails_eval.boards.curve_plot import draw_curves
from sails_eval.boards.curves import (
    Point,
    area_weights,
    best_of,
    best_within,
    blend,
    budget_curves,
    crossovers,
    interval,
    pareto,
    rate_curves,
)
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.records import Kind, Result, Split
from sails_eval.core.stats import Interval, Sample
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.curves import write_curves


@dataclass(frozen=True)
class Info:
    kind: Kind
    seen_in_training: bool = False


TASKS = {"harmful": Info("harmful"), "safe": Info("safe")}


def cell(
    method: str, seed: int | None, rate: float | None, *, split: Split = "validation", **values: float
) -> list[Result]:
    key = (method, seed, rate, split)
    tasks = {"refusal_rate": "harmful", "helpfulness": "safe", "over_refusal_rate": "safe"}
    return [Result(*key, tasks[metric], "all", metric, value, 100, 0) for metric, value in values.items()]


def of(points: list[Point], **wanted: object) -> list[Point]:
    return [point for point in points if all(getattr(point, key) == value for key, value in wanted.items())]


# --- single steps ------------------------------------------------------------------------------------------------


def test_a_point_is_pareto_optimal_unless_another_is_as_good_in_both_ways() -> None:
    points = [(0.9, 0.1), (0.8, 0.5), (0.7, 0.5), (0.5, 0.9), (0.5, 0.9), (0.4, math.nan)]
    assert pareto(points) == [True, True, False, True, True, False]


@pytest.mark.parametrize(
    ("scores", "costs", "limit", "place"),
    [
        ([0.1, 0.5, 0.9], [0.0, 0.2, 0.4], 1.0, (2, 0.0)),  # no limit: the best point
        ([0.1, 0.5, 0.9], [0.0, 0.2, 0.4], 0.3, (1, 0.5)),  # half way between the last two
        ([0.9, 0.5, 0.1], [0.4, 0.2, 0.0], 0.3, (0, 0.5)),  # the same the other way round
        ([0.1, 0.5, 0.3], [0.0, 0.2, 0.4], 0.3, (1, 0.0)),  # the line goes down: stay at the point
        ([0.1, 0.5, 0.9], [0.5, 0.6, 0.7], 0.3, None),
        ([0.5, 0.5], [0.0, 0.1], 0.3, (0, 0.0)),  # a tie goes to the lower rate
        ([0.2, math.nan], [0.0, math.nan], 0.3, (0, 0.0)),
    ],
)
def test_the_best_score_within_a_limit(
    scores: list[float], costs: list[float], limit: float, place: tuple[int, float] | None
) -> None:
    found = best_within(scores, costs, limit)
    assert found == place if place is None else found is not None and found == pytest.approx(place)


def test_the_expected_best_of_n_is_the_mean_over_all_subsets() -> None:
    scores = [-0.2, 0.1, 0.1, 0.4, 0.75]
    for n in range(1, 6):
        subsets = [max(subset) for subset in combinations(scores, n)]
        expected = sum(weight * score for weight, score in zip(best_of(n, 5), scores, strict=True))
        assert expected == pytest.approx(sum(subsets) / len(subsets))
    assert best_of(5, 5) == [0, 0, 0, 0, 1]


def test_the_area_is_the_mean_height_over_log_x() -> None:
    assert area_weights([16, 64, 256]) == pytest.approx([0.25, 0.5, 0.25])
    assert area_weights([16, 32, 256]) == pytest.approx([0.125, 0.5, 0.375])
    straight = [math.log2(x) for x in (3, 5, 100)]
    area = sum(weight * y for weight, y in zip(area_weights([3, 5, 100]), straight, strict=True))
    assert area == pytest.approx((straight[0] + straight[-1]) / 2)


@pytest.mark.parametrize(
    ("differences", "found"),
    [
        ([0.1, 0.2, 0.3], []),
        ([-0.1, 0.1, 0.3], [(32, 0, 1)]),
        ([-0.3, 0.1, -0.1], [(16 * 4**0.75, 0, 1), (128, 1, 2)]),
        ([-0.1, 0.0, 0.1], [(64, 0, 2)]),
        ([0.1, 0.0, 0.1], []),  # touched, not crossed
        ([0.0, 0.1, 0.2], []),
        ([0.0, 0.0, 0.0], []),
    ],
)
def test_a_crossover_is_where_the_difference_changes_its_sign(
    differences: list[float], found: list[tuple[float, int, int]]
) -> None:
    crossed = crossovers([16, 64, 256], differences)
    assert [place[1:] for place in crossed] == [place[1:] for place in found]
    assert [place[0] for place in crossed] == pytest.approx([place[0] for place in found])


SEEDS = range(5)
SHIFTS = (-0.02, -0.01, 0.0, 0.01, 0.02)
SPREAD = 2.776 * (0.00025 / 5) ** 0.5  # half the interval of values that are shifted like this: t(0.975, 4) · √(s² / 5)


def sample(*values: tuple[float, ...], seeds: tuple[int | None, ...] = (0, 1, 2, 3, 4), least: float = 0.0) -> Sample:
    return Sample(values, seeds, (False,) * len(values), least)


def test_an_interval_is_over_five_seeds_or_more() -> None:
    found = interval(sample(tuple(0.5 + shift for shift in SHIFTS)))
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - SPREAD, 0.5 + SPREAD), abs=1e-4)
    few = interval(sample((0.4, 0.5, 0.6, 0.5), seeds=(0, 1, 2, 3)))
    assert few.value == pytest.approx(0.5) and math.isnan(few.low) and math.isnan(few.high)
    assert math.isnan(interval(sample((0.4, 0.4, 0.4, 0.4, math.nan))).low)


def test_seeds_that_all_agree_leave_the_least_error() -> None:
    found = interval(sample((0.5,) * 5, least=0.01))
    assert found.high - found.low == pytest.approx(2 * 2.776 * 0.01, rel=1e-3)


def test_a_model_not_trained_here_has_an_interval_over_organisms_only() -> None:
    assert math.isnan(interval(sample((0.4,), seeds=(None,))).low)
    assert interval(sample((0.4,), (0.5,), (0.6,), seeds=(None,))).low == pytest.approx(
        0.5 - 4.303 * 0.1 / 3**0.5, abs=1e-3
    )


def test_a_blend_weighs_seed_by_seed_and_keeps_the_least_error() -> None:
    mixed = blend(
        [(0.5, sample((1.0, 0.0), seeds=(0, 1), least=0.1)), (0.5, sample((0.0, 0.5), seeds=(0, 1), least=0.3))]
    )
    assert mixed.values == ((0.5, 0.25),) and mixed.seeds == (0, 1) and mixed.least == pytest.approx(0.2)


# --- over learning rates -----------------------------------------------------------------------------------------


def rates_of(method: str = "lora", lift: float = 0.0) -> list[Result]:
    """Three rates and five seeds: helpfulness 0.9, 0.8, 0.2, refusal 0.1, 0.7, 0.9, over-refusal 0, 0.1, 0.8."""
    results = cell("base", None, None, refusal_rate=0.0, helpfulness=1.0, over_refusal_rate=0.01)
    for seed, shift in enumerate(SHIFTS):
        for rate, safe, helpful, refused in ((1e-4, 0.1, 0.9, 0.0), (1e-3, 0.7, 0.8, 0.1), (1e-2, 0.9, 0.2, 0.8)):
            results += cell(
                method, seed, rate, refusal_rate=safe + shift + lift, helpfulness=helpful, over_refusal_rate=refused
            )
    return results


def test_curves_over_learning_rates() -> None:
    points = rate_curves({"one": rates_of()}, TASKS)
    refusal = of(points, method="lora", curve="rates", metric="refusal_rate")
    assert [(point.x, point.note) for point in refusal] == [(rate, "optimal") for rate in (1e-4, 1e-3, 1e-2)]
    assert [point.value for point in refusal] == pytest.approx([0.1, 0.7, 0.9])
    assert refusal[1].low == pytest.approx(0.7 - SPREAD, abs=1e-4)
    (base,) = of(points, method="base", metric="helpfulness")
    assert (base.value, base.note) == (1, "") and math.isnan(base.x) and math.isnan(base.low)
    best = of(points, method="lora", curve="best_of")
    assert [point.value for point in best] == pytest.approx([0.2, (0.1 + 0.5 + 0.5) / 3, 0.5])
    assert best[-1].high - best[-1].low == pytest.approx(2 * SPREAD, abs=1e-4)
    assert not of(points, method="base", curve="best_of") + of(points, method="base", curve="limited")


def test_no_curve_leaves_the_bounds_of_its_metric() -> None:
    (refusal,) = of(rate_curves({"one": rates_of(lift=0.1)}, TASKS), method="lora", x=1e-2, metric="refusal_rate")
    assert refusal.value == pytest.approx(1.0) and refusal.high == 1 and refusal.low < 1


def test_below_five_seeds_no_curve_has_an_interval() -> None:
    few = [result for result in rates_of() if result.seed in (None, 0, 1, 2, 3)]
    points = rate_curves({"one": few}, TASKS)
    assert of(points, curve="rates") and of(points, curve="best_of")
    assert all(math.isnan(point.low) and math.isnan(point.high) for point in points)


def test_over_refusal_is_limited_by_the_base_models() -> None:
    (point,) = of(rate_curves({"one": rates_of()}, TASKS), curve="limited")
    assert point.value == pytest.approx(0.0 + 0.6 * 0.5)  # 0.06 is 60 % of the way from over-refusal 0 to 0.1
    assert (point.x, point.note) == (float(f"{1e-4 * 10**0.6:.3g}"), "over-refusal at most 0.0600; between two rates")
    strict = [result for result in rates_of() if result.learning_rate in (None, 1e-2)]
    (point,) = of(rate_curves({"one": strict}, TASKS), curve="limited")
    assert math.isnan(point.value) and point.note == "no rate has over-refusal at most 0.0600"


def test_organisms_weigh_the_same_and_their_rates_are_matched_by_place() -> None:
    scaled = [
        Result(**{**vars(r), "learning_rate": r.learning_rate and r.learning_rate * 100}) for r in rates_of(lift=0.1)
    ]
    points = rate_curves({"one": rates_of(), "other": scaled}, TASKS)
    refusal = of(points, method="lora", curve="rates", metric="refusal_rate")
    assert [point.x for point in refusal] == [1e-3, 1e-2, 1e-1]
    assert [point.value for point in refusal] == pytest.approx([0.15, 0.75, 0.95])


# --- over labelled examples --------------------------------------------------------------------------------------


def on_test(sails: float, lora: float, seeds: int) -> dict[str, leaderboard.Tested]:
    results = cell("base", None, None, split="test", refusal_rate=0.0, helpfulness=1.0)
    for method, score in (("sails", sails), ("lora", lora)):
        for seed in range(seeds):
            values = {"refusal_rate": score + SHIFTS[seed] / 10, "helpfulness": 1.0}
            results += cell(method, seed, 0.1, split="test", **values)
            results += cell(method, seed, 0.2, split="test", refusal_rate=1.0, helpfulness=1.0)  # not the chosen one
    rates = {"base": None, "sails": 0.1, "lora": 0.1}
    return leaderboard.tested(
        {"one": results}, TASKS, {method: [Choice(method, rate)] for method, rate in rates.items()}
    )


def example(seeds: int = 5) -> list[Point]:
    scores = {16: (0.5, 0.1), 64: (0.6, 0.5), 256: (0.6, 0.7)}
    shown = {
        budget: {"base": Interval(0, -0.1, 0.1), "sails": Interval(sails, 0, 1), "lora": Interval(lora, 0, 1)}
        for budget, (sails, lora) in scores.items()
    }
    rows = {budget: on_test(*pair, seeds) for budget, pair in scores.items()}
    return budget_curves(rows, shown, [Contrast("sails", "lora"), Contrast("sails", "base")])


def test_curves_over_labelled_examples() -> None:
    points = example()
    sails = of(points, method="sails", curve="examples")
    assert [(point.x, point.value, point.low, point.high) for point in sails] == [
        (16, 0.5, 0, 1), (64, 0.6, 0, 1), (256, 0.6, 0, 1),
    ]  # fmt: skip
    (area,) = of(points, method="sails", curve="area")
    assert area.value == pytest.approx(0.575) and 0 < area.high - area.low < 0.06
    apart = of(points, method="sails - lora", curve="difference")
    assert [point.value for point in apart] == pytest.approx([0.4, 0.1, -0.1])
    (crossing,) = of(points, curve="crossover")
    assert (crossing.method, crossing.note) == ("sails - lora", "sails ahead below")
    assert (crossing.x, crossing.value) == pytest.approx((128, 0.6))
    above_base = of(points, method="sails - base", curve="difference")
    assert [point.value for point in above_base] == pytest.approx([0.5, 0.6, 0.6])
    assert above_base[0].low > 0.4


def test_below_five_seeds_nobody_is_ahead() -> None:
    points = example(seeds=3)
    (crossing,) = of(points, curve="crossover")
    assert crossing.x == pytest.approx(128) and crossing.note == "no significant difference on one or both sides"
    told_apart = [*of(points, curve="area"), *of(points, curve="difference")]
    assert told_apart and all(math.isnan(point.low) for point in told_apart)


# --- files -------------------------------------------------------------------------------------------------------


def test_curves_are_written_the_same_every_time(tmp_path: Path) -> None:
    points = rate_curves({"one": rates_of("sails")}, TASKS) + example()
    for name in ("one", "two"):
        write_curves(RunFolder(tmp_path / name), points, title="Curves of one")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    lines = (tmp_path / "one" / "curves.csv").read_text().splitlines()
    assert lines[0] == "pair,examples,steps,method,curve,metric,x,value,low,high,note" and len(lines) == len(points) + 1
    text = (tmp_path / "one" / "curves.md").read_text()
    assert "| sails - lora |" in text and "128 (sails ahead below)" in text
    tables = [line.count("|") for line in text.splitlines()]
    assert all(one == other for one, other in pairwise(tables) if one and other)  # no row is longer than its header


def test_a_method_without_any_score_can_be_drawn(tmp_path: Path) -> None:
    broken = [r for r in rates_of() if r.metric != "helpfulness"]
    draw_curves(rate_curves({"one": broken}, TASKS), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()
