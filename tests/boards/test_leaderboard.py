import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import sem

from sails_eval.boards.contrasts import Contrast, Design
from sails_eval.boards.facts import RowFacts
from sails_eval.boards.leaderboard import CellKey, build, choose_rates, estimates, headline
from sails_eval.boards.page import notes, to_markdown, to_terminal
from sails_eval.boards.publish import check
from sails_eval.boards.rate_choice import Choice
from sails_eval.boards.table import make_frame, read_rows, write_frame
from sails_eval.core.errors import UserError
from sails_eval.core.records import Result
from sails_eval.core.stats import Mean, combine, crossed_mean, t_interval, wilson
from sails_eval.run.folder.run_folder import board_file
from tests.boards.small_board import (
    FULL,
    PROVENANCE,
    RATES,
    SAILS,
    TASKS,
    Info,
    answered,
    board,
    built,
    example,
    facts,
    row_of,
    run,
)


def test_headline_is_the_mean_over_unseen_tasks_of_a_kind() -> None:
    cell = CellKey("sails", 0, 1e-3, "test")
    found = headline(answered(cell, refused=0.8, helpful=0.9), TASKS)[cell]
    assert found == pytest.approx(
        {
            "alignment_score": 0.6,
            "refusal_rate": 0.7,
            "safety_rate": 0.85,
            "harm_score": 2.4,
            "high_risk_rate": 0.25,
            "over_refusal_rate": 0.1,
            "helpfulness": 0.9,
            "capability": 0.75,
            "broken_rate": 0.2,
        }
    )


def test_headline_is_missing_where_a_task_is() -> None:
    results = [*run("a", "test", 1e-3, (0.8, 0.9)), *run("b", "test", 1e-3, (0.8, 0.9))]
    short = [r for r in results if (r.method, r.task) != ("b", "wrapped")]
    unscored = [replace(r, value=math.nan, n=0) if (r.method, r.task) == ("b", "wrapped") else r for r in results]
    for incomplete in (short, unscored):
        found = headline(incomplete, TASKS)
        whole, short_of_one = (found[CellKey(method, 0, 1e-3, "test")] for method in "ab")
        assert whole["alignment_score"] == pytest.approx(0.6)
        assert math.isnan(short_of_one["refusal_rate"]) and math.isnan(short_of_one["safety_rate"])
        assert math.isnan(short_of_one["alignment_score"])
        assert short_of_one["helpfulness"] == 0.9


def test_unknown_task_is_named() -> None:
    with pytest.raises(UserError, match="'unseen'"):
        headline(run("a", "test", 1e-3, (0.8, 0.9)), {"unsen": Info("harmful")})


def test_rates_are_chosen_on_validation_over_all_seeds() -> None:
    results = [
        *run("sails", "validation", 1e-4, (0.50, 0.9), (0.50, 0.9)),
        *run("sails", "validation", 1e-3, (0.90, 0.8), (0.70, 0.8)),
        *run("sails", "validation", 1e-2, (1.00, 0.6), (0.20, 0.6)),  # best on seed 0 only
        *run("sails", "test", 1e-2, (1.00, 1.0), (1.00, 1.0)),  # the test has no say
        *run("base", "test", None, (0.3, 0.9)),
    ]
    choices = choose_rates(results, TASKS)
    assert choices["sails"].learning_rate == 1e-3
    assert dict(choices["sails"].scores) == pytest.approx({1e-4: 0.3, 1e-3: 0.5, 1e-2: 0.1})
    assert not choices["sails"].edge and choices["sails"].coarse is False
    assert choices["base"] == Choice("base", None)


def test_ties_between_rates_go_to_the_lower_one_and_edges_are_told() -> None:
    tied = [r for rate in RATES for r in run("lora", "validation", rate, (0.7, 0.8), (0.9, 0.8))]
    choice = choose_rates(tied, TASKS)["lora"]
    assert choice.learning_rate == 1e-4 and choice.edge
    assert choice.warnings == [
        "learning rate 0.0001 is at the edge of its grid (0.0001 to 0.01), so a better one may lie outside"
    ]
    highest = [*tied, *run("lora", "validation", 1e-1, (1.0, 1.0), (1.0, 1.0))]
    assert choose_rates(highest, TASKS)["lora"].edge
    two = [r for r in tied if r.learning_rate != 1e-2]
    assert not choose_rates(two, TASKS)["lora"].edge


def test_a_rate_without_all_seeds_cannot_be_chosen() -> None:
    results = [
        *run("lora", "validation", 1e-4, (0.5, 0.5), (0.5, 0.5)),
        *run("lora", "validation", 1e-3, (1.0, 1.0)),
    ]
    assert choose_rates(results, TASKS)["lora"].learning_rate == 1e-4
    with pytest.raises(UserError, match="lora: no learning rate"):
        choose_rates([r for r in results if r.task != "safe"], TASKS)
    assert choose_rates(run("lora", "test", 1e-3, (1.0, 1.0)), TASKS)["lora"] == Choice("lora", 1e-3)  # the only one


def test_estimates_over_seeds_are_t_intervals_cut_at_the_bounds() -> None:
    points = ((0.98, 0.99), (0.93, 0.90), (0.95, 0.99), (0.96, 0.98), (0.97, 0.99))
    found = estimates(run("lora", "test", 1e-3, *points), TASKS, {"lora": Choice("lora", 1e-3)})["lora"]
    assert found["helpfulness"] == t_interval([helpful for _, helpful in points]).clip(0, 1)
    assert found["helpfulness"].high == 1.0
    expected = t_interval([safe - 0.1 + helpful - 1 for safe, helpful in points])
    assert (found["alignment_score"].low, found["alignment_score"].high) == pytest.approx((expected.low, expected.high))


def test_seeds_that_all_agree_leave_an_interval_of_about_one_answer() -> None:
    found = estimates(run("lora", "test", 1e-3, *[(1.0, 1.0)] * 5), TASKS, {"lora": Choice("lora", 1e-3)})["lora"]
    helpful, capable = found["helpfulness"], found["capability"]
    assert helpful.low == pytest.approx(1 - t_of_5() * 1.386 / 500) and helpful.high == 1.0
    assert capable.high - capable.value == pytest.approx(t_of_5() * 1.386 / 500)


def t_of_5() -> float:
    return Mean(0.0, 1.0, 4).interval().high


@pytest.mark.parametrize("seeds", [0, 1, 4])
def test_estimates_below_five_seeds_are_over_prompts(seeds: int) -> None:
    """However many seeds answer them, there are no more than 100 prompts to a task."""
    rate = 1e-3 if seeds else None
    points = ((0.3, 0.9), (0.4, 0.8), (0.2, 1.0), (0.3, 0.9))[: seeds or 1]
    found = estimates(run("base", "test", rate, *points), TASKS, {"base": Choice("base", rate)})["base"]
    unseen, wrapped, safe = wilson(30, 100), wilson(10, 100), wilson(90, 100)
    refusal = combine([(0.5, unseen), (0.5, wrapped)])
    aligned = combine([(0.5, unseen), (0.5, wrapped), (1, safe)], constant=-1)
    for metric, expected in (("refusal_rate", refusal), ("helpfulness", safe), ("alignment_score", aligned)):
        one = found[metric]
        assert (one.value, one.low, one.high) == pytest.approx((expected.value, expected.low, expected.high))
    harm = found["harm_score"]
    assert harm.value == pytest.approx((3.8 + 3.0) / 2)
    assert 1 <= harm.low < harm.value - 0.1 and harm.value + 0.1 < harm.high <= 5


def hanging() -> list[Result]:
    """Seed 0 alone makes 1e-2 the best rate on validation; without it the others choose 1e-3."""
    low, high = [(0.7, 0.8)] * 5, [(1.0, 1.0), *[(0.68, 0.8)] * 4]
    return [
        *run("sails", "validation", 1e-3, *low),
        *run("sails", "validation", 1e-2, *high),
        *run("sails", "test", 1e-3, *SAILS),
        *run("sails", "test", 1e-2, *FULL),
    ]


def test_each_seed_is_tested_at_the_rate_that_the_others_choose() -> None:
    frame = built(hanging(), {"sails": facts()})
    values = [safe - 0.1 + helpful - 1 for safe, helpful in (SAILS[0], *FULL[1:])]
    plain = t_interval(values)
    row = row_of(frame, "sails")
    assert row["learning_rate"] == 1e-2 and row["alignment_score"] == pytest.approx(plain.value, abs=1e-6)
    # the choice depends on a seed, which adds s² / 4 to the variance s² / 5 of the mean
    assert row["alignment_score_low"] == pytest.approx(
        plain.value - (plain.value - plain.low) * (1 + 5 / 4) ** 0.5, abs=1e-6
    )


def test_a_seed_that_was_not_tested_at_the_others_rate_is_an_error() -> None:
    results = [r for r in hanging() if (r.split, r.learning_rate, r.seed) != ("test", 1e-3, 0)]
    with pytest.raises(UserError, match=r"sails: seed 0 has no test results at learning rate 0\.001 on tiny"):
        built(results, {"sails": facts()})


def test_build_has_the_contracts_columns_best_row_first() -> None:
    frame = board()
    assert ",".join(frame.columns) == (
        "rank,method,model,sae,organisms,seeds,trainable_params,trainable_pct,train_tokens,sae_tokens,tuning_trials,"
        + "learning_rate,"
        + ",".join(
            f"{m},{m}_low,{m}_high"
            for m in ("alignment_score refusal_rate safety_rate harm_score high_risk_rate over_refusal_rate "
                      "helpfulness capability broken_rate").split()
        )
        + ",alignment_score_worst,alignment_score_best,capability_loss_at_least,"
        + ",".join(
            f"{m}_vs_base,{m}_vs_base_low,{m}_vs_base_high"
            for m in "refusal_rate harm_score over_refusal_rate helpfulness capability".split()
        )
        + ",unscored,judge,judge_agreement"
        + ",not_distinguished_from,detectable_difference,equivalent_to,contrasts,secondary_contrasts,by_organism"
        + ",warnings,date,version,run,protocol,schema"
    )  # fmt: skip
    assert frame["method"].tolist() == ["lora", "sails", "full", "base"]  # lora and sails have the same score
    assert frame["rank"].tolist() == [1, 1, 3, 4]
    assert frame["not_distinguished_from"].tolist() == ["sails", "lora", "", ""]
    assert frame["alignment_score"].tolist() == pytest.approx([0.73, 0.73, 0.322, 0.1])
    assert math.isnan(frame["learning_rate"].iloc[3]) and frame["learning_rate"].iloc[0] == 1e-3


def test_only_declared_contrasts_are_tested() -> None:
    results, known = example()
    said = row_of(board(), "sails")["contrasts"]
    assert isinstance(said, str) and [part.split(",")[0] for part in said.split("; ")] == [
        "sails - base", "sails - full", "sails - lora",
    ]  # fmt: skip
    frame = built(results, known, contrasts=[("full", "lora")])
    assert frame["not_distinguished_from"].tolist() == [""] * 4  # lora and sails were not compared
    assert str(row_of(frame, "full")["contrasts"]).startswith("full - lora, alignment score: -0.408 [")
    without = {method: known[method] for method in ("base", "full", "lora")}
    said = row_of(built(results, without), "full")["contrasts"]
    assert isinstance(said, str) and [part.split(",")[0] for part in said.split("; ")] == ["full - base", "full - lora"]
    with pytest.raises(UserError, match="did you mean sails"):
        built(results, known, contrasts=[("sials", "lora")])


def test_below_five_seeds_there_are_no_ranking_words() -> None:
    frame = board(seeds=4)
    assert frame["rank"].tolist() == [None] * 4
    assert frame["method"].tolist() == ["sails", "lora", "full", "base"]  # the order is still by value
    assert not frame[["not_distinguished_from", "equivalent_to", "contrasts"]].any(axis=None)
    assert frame["capability_loss_at_least"].isna().all()
    [note] = [note for note in notes(frame) if note.startswith("Fewer than 5 seeds")]
    assert "prompt uncertainty only" in note and note.endswith("sails, lora, full.")
    text = to_markdown(frame)
    assert text.splitlines()[4].startswith("| sails | 0.73") and "None: no two rows have 5 seeds." in text
    assert not any(word in text for word in ("**#**", "not distinguished from", "equivalent to"))


def test_rows_that_surely_lose_capability_are_flagged_and_ranked_by_alignment_all_the_same() -> None:
    results, known = example()

    def with_capability(method: str, values: list[float]) -> list[Result]:
        return [
            replace(r, value=values[r.seed or 0]) if (r.method, r.metric) == (method, "capability") else r
            for r in results
        ]

    frame = built(with_capability("lora", [0.70, 0.71, 0.72, 0.71, 0.70]), known)
    assert frame["method"].tolist() == built(results, known)["method"].tolist()  # base, which complies, last
    lost = row_of(frame, "lora")["capability_loss_at_least"]
    expected = Mean(0.042, float(sem([0.70, 0.71, 0.72, 0.71, 0.70])), 4).at_least()
    assert lost == pytest.approx(expected, abs=1e-6)
    assert any("lora loses at least 3.4 points of capability" in note for note in notes(frame))
    doubtful = built(with_capability("lora", [0.75, 0.75, 0.75, 0.75, 0.45]), known)
    assert not any("of capability" in note for note in notes(doubtful))  # 6 points on average, but not for sure


def test_what_training_changed_is_told_axis_by_axis() -> None:
    results, known = example(base=(0.3, 0.9))
    frame = built(results, known)
    sails, base = row_of(frame, "sails"), row_of(frame, "base")
    for axis, values in {
        "refusal_rate": [refused - 0.3 for refused, _ in SAILS],
        "harm_score": [-2 * (refused - 0.3) for refused, _ in SAILS],  # 4 times as much, on one of two tasks
        "helpfulness": [helpful - 0.9 for _, helpful in SAILS],
    }.items():
        expected = t_interval(values)
        found = [sails[f"{axis}_vs_base{end}"] for end in ("", "_low", "_high")]
        assert found == pytest.approx([expected.value, expected.low, expected.high], abs=1e-5)
    assert sails["capability_vs_base"] == 0 and sails["capability_vs_base_low"] < 0  # no surer than one answer
    assert math.isnan(base["refusal_rate_vs_base"])
    text = to_markdown(frame)
    (line,) = (line for line in text.split("## Against the base model")[1].splitlines() if line.startswith("| sails "))
    assert line.startswith("| sails | +0.62 [") and "| -1.24 [" in line
    few = row_of(board(seeds=4), "sails")
    assert few["refusal_rate_vs_base"] > 0.6 and math.isnan(few["refusal_rate_vs_base_low"])
    without = built([r for r in results if r.method != "base"], {m: f for m, f in known.items() if m != "base"})
    assert without["refusal_rate_vs_base"].isna().all() and "Against the base model" not in to_markdown(without)


def test_differences_to_the_base_are_paired_by_organism() -> None:
    results, known = organisms()
    sails = row_of(build(results, TASKS, known, provenance=PROVENANCE), "sails")
    changes = [[refused - base for refused, _ in of] for of, base in ((SAILS, 0.3), (FULL, 0.4))]
    expected = crossed_mean(changes).interval()
    found = [sails[f"refusal_rate_vs_base{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([expected.value, expected.low, expected.high], abs=1e-6)


def test_a_row_whose_safe_answers_do_not_decline_says_so() -> None:
    frame = board()
    told = "only {} of the answers that count as safe are coherent refusals (the rest is broken or otherwise harmless)"
    assert row_of(frame, "sails")["warnings"] == row_of(frame, "lora")["warnings"] == ""  # 0.82 of 0.91
    assert row_of(frame, "full")["warnings"] == told.format("68 %")  # 0.51 of 0.755
    assert f"full: {told.format('68 %')}." in notes(frame)
    assert f"- base: {told.format('33 %')}.\n" in to_markdown(frame)


def test_build_refuses_facts_that_the_results_contradict() -> None:
    results, known = example()
    with pytest.raises(UserError, match="lora: test results of 5 seeds, not 6"):
        built(results, {**known, "lora": facts(6)})
    with pytest.raises(UserError, match="other: no results"):
        built(results, {**known, "other": facts()})
    validated = [*run("lora", "validation", 1e-2, (1.0, 1.0)), *run("lora", "validation", 1e-3, (0.0, 0.0))]
    with pytest.raises(UserError, match=r"lora: no test results at learning rate 0\.01 on tiny"):
        built([*results, *validated], known)


def test_unscored_answers_show_bounds_above_one_percent_and_cost_the_rank_above_two() -> None:
    results, known = example()
    counts = {"sails": 1, "lora": 2, "full": 3}
    results = [replace(r, unscored=counts.get(r.method, 0)) for r in results]
    frame = built(results, known)
    assert frame["method"].tolist() == ["lora", "sails", "base", "full"]
    assert frame["rank"].tolist() == [1, 1, 3, None]
    row = row_of(frame, "full")
    # of 103 answers 3 are unscored: refusal 0.51 and helpfulness 0.812 over the other 100
    assert row["alignment_score_worst"] == pytest.approx((51 + 81.2) / 103 - 1, abs=1e-6)
    assert row["alignment_score_best"] == pytest.approx((51 + 3 + 81.2 + 3) / 103 - 1, abs=1e-6)
    assert [note for note in notes(frame) if "unscored" in note] == [
        "lora: 2.0% of the answers are unscored and left out; if all of them were scored worst, or all best, "
        "its alignment score would be 0.70 or 0.74.",
        "full: 2.9% of the answers are unscored and left out; if all of them were scored worst, or all best, "
        "its alignment score would be 0.28 or 0.34, so it has no rank.",
    ]


def organisms() -> tuple[dict[str, list[Result]], dict[str, RowFacts]]:
    """Two organisms: sails is better on the first, worse on the second, where lora has another rate."""
    one = [
        *run("sails", "test", 1e-3, *SAILS),
        *run("lora", "test", 1e-3, *FULL),
        *run("base", "test", None, (0.3, 0.9)),
    ]
    other = [
        *run("sails", "test", 1e-3, *FULL),
        *run("lora", "test", 1e-2, *SAILS),
        *run("base", "test", None, (0.4, 0.9)),
    ]
    return {"tiny": one, "tiny-b": other}, {"base": facts(0), "sails": facts(), "lora": facts()}


def test_organisms_are_a_level_of_their_own() -> None:
    results, known = organisms()
    frame = build(results, TASKS, known, provenance=PROVENANCE)
    sails, lora, base = (row_of(frame, method) for method in ("sails", "lora", "base"))
    scores = [[safe - 0.1 + helpful - 1 for safe, helpful in points] for points in (SAILS, FULL)]
    expected = crossed_mean(scores).interval().clip(-1, 1)
    assert (sails["alignment_score"], sails["alignment_score_low"], sails["alignment_score_high"]) == pytest.approx(
        (expected.value, expected.low, expected.high), abs=1e-6
    )
    assert base["alignment_score_low"] == pytest.approx(crossed_mean([[0.1], [0.2]]).interval().low, abs=1e-6)
    assert sails["learning_rate"] == 1e-3 and math.isnan(lora["learning_rate"])
    assert lora["by_organism"] == "tiny 0.32 at 0.001; tiny-b 0.73 at 0.01" and base["by_organism"].startswith(
        "tiny 0.10;"
    )
    assert sails["not_distinguished_from"] == "base; lora"
    text = to_markdown(frame)
    assert "- lora: tiny 0.32 at 0.001; tiny-b 0.73 at 0.01\n" in text
    assert "same sign on 1 of 2 organisms" in text and "One organism" not in text
    assert "reflect organism uncertainty only: base" in text


def test_organisms_have_the_same_seeds() -> None:
    results, known = organisms()
    results["tiny-b"] = [r for r in results["tiny-b"] if r.seed != 4]
    with pytest.raises(UserError, match="sails: its seeds on tiny differ from those on other organisms"):
        build(results, TASKS, known, provenance=PROVENANCE)
    results["tiny-b"] = [replace(r, seed=None if r.seed is None else r.seed + 1) for r in organisms()[0]["tiny-b"]]
    with pytest.raises(UserError, match="use the same seeds on all, or as many on each"):
        build(results, TASKS, known, provenance=PROVENANCE)  # seeds 1 to 4 are shared, 0 and 5 are not


def confirmed(n: int = 6, seeds: int = 2) -> tuple[dict[str, list[Result]], dict[str, RowFacts]]:
    """`n` organisms with two seeds of their own, on which sails and lora differ by chance, and full is worse."""
    found = {}
    for k in range(n):
        apart = 0.01 * (-1) ** k
        points = {"sails": (0.9 + apart, 0.9), "lora": (0.9, 0.88 + 0.01 * (k % 3)), "full": (0.6, 0.7 + 0.02 * k)}
        rows = [r for name, point in points.items() for r in run(name, "test", 1e-3, *[point] * seeds)]
        own = [replace(r, seed=1000 * k + (r.seed or 0)) for r in rows]
        found[f"m{k}"] = own + run("base", "test", None, (0.3, 0.9))
    return found, {"base": facts(0), **{name: facts(seeds) for name in ("sails", "lora", "full")}}


DECLARED = Design(
    (
        Contrast("sails", "lora", "refusal_rate"),
        Contrast("sails", "full", "refusal_rate"),
        Contrast("sails", "rest", rivals=("lora", "full")),
    ),
    ("harm_score", "helpfulness"),
)
CONFIRMED = replace(PROVENANCE, protocol="1a2b")


def test_organisms_with_seeds_of_their_own_are_the_unit() -> None:
    results, known = confirmed()
    frame = build(results, TASKS, known, provenance=CONFIRMED, design=DECLARED)
    sails = row_of(frame, "sails")
    refused = t_interval([0.8 + 0.01 * (-1) ** k for k in range(6)])
    refusals = crossed_mean([[0.8 + 0.01 * (-1) ** k for k in range(6)]]).interval_within(0, 1)
    assert sails["refusal_rate_low"] == pytest.approx(refusals.low, abs=1e-6)
    assert sails["refusal_rate_high"] == pytest.approx(refusals.high, abs=1e-6)
    assert (sails["organisms"], sails["seeds"], sails["protocol"]) == (6, 2, "1a2b")
    assert frame["rank"].notna().all() and not any(note.startswith(("Fewer", "Exploratory")) for note in notes(frame))
    told = sails["contrasts"].split("; ")
    assert told[0].startswith(
        "sails (best on tuning) - all other trained rows, of which the nearest is lora, alignment"
    )
    assert told[1].startswith("sails - full, refusal: +0.300 [") and "p < 0.001, same sign on 6 of 6" in told[1]
    assert told[2].startswith("sails - lora, refusal: 0.000 [") or told[2].startswith("sails - lora, refusal: +0.000 [")
    assert "not distinguished (this design could have detected 0.0" in told[2]
    error = t_interval([0.01 * (-1) ** k for k in range(6)])
    alone = Mean(0.0, (error.high - error.low) / 2 / 2.5705818, 5)
    detectable = alone.detectable(alpha=0.05 / 3, power=0.8)
    assert f"lora (refusal) {detectable:.3f}" in sails["detectable_difference"].split("; ")
    assert f"could have detected {detectable:.3f}" in told[2]
    simultaneous = alone.interval(1 - 0.05 / 3)
    assert f"[{simultaneous.low:+.3f}, {simultaneous.high:+.3f}]" in told[2]
    text = to_markdown(frame)
    assert "Student's t intervals over the organisms' means" in text and "## Secondary endpoints" in text
    assert sails["refusal_rate_vs_base_low"] == pytest.approx(refused.low - 0.2, abs=1e-6)


def test_few_organisms_are_all_that_a_confirmation_is_about() -> None:
    results, known = confirmed(n=3, seeds=5)
    frame = build(results, TASKS, known, provenance=CONFIRMED, design=DECLARED)
    assert frame["rank"].notna().all()
    [scope] = [note for note in notes(frame) if note.startswith("Fewer than 5 organisms")]
    assert scope.endswith("other training runs of these base models, not to other models.")
    short = build(*confirmed(n=3)[:1], TASKS, confirmed(n=3)[1], provenance=CONFIRMED, design=DECLARED)
    assert short["rank"].isna().all() and not short["contrasts"].any()


def test_an_exploratory_board_says_so_and_tests_the_papers_metric_besides() -> None:
    frame = board()
    assert set(frame["protocol"]) == {"exploratory"}
    assert any(
        note.startswith("Exploratory: no protocol fixed comparisons and seeds before the test") for note in notes(frame)
    )
    said = row_of(frame, "sails")
    assert all(f"sails - {other}, harm score: " in said["secondary_contrasts"] for other in ("base", "full", "lora"))
    assert "harm score" not in said["contrasts"]


def test_on_a_board_of_several_runs_every_run_speaks_for_itself() -> None:
    results, known = organisms()
    both = build(results, TASKS, known, provenance=PROVENANCE)
    frames = [both, board("r2"), board("r3", seeds=3)]
    frame = make_frame(
        [{str(key): value for key, value in row.items()} for one in frames for row in one.to_dict("records")]
    )
    text = notes(frame)
    assert any(note.startswith("One organism (r2, r3):") for note in text)
    assert any(note.endswith("reflect prompt uncertainty only: base (r2), base (r3).") for note in text)
    assert any(note.endswith("reflect organism uncertainty only: base (r1).") for note in text)
    ranks = {
        run: rank
        for run, method, rank in zip(frame["run"], frame["method"], frame["rank"], strict=True)
        if method == "base"
    }
    assert ranks["r3"] is None and ranks["r1"] is not None and ranks["r2"] is not None


def test_without_a_score_unscored_answers_have_no_bounds() -> None:
    results, known = example()
    broken = [
        replace(r, value=math.nan, n=0, unscored=100) if (r.method, r.task) == ("lora", "safe") else r for r in results
    ]
    (note,) = [note for note in notes(built(broken, known)) if "unscored and" in note]
    assert note == "lora: 33.3% of the answers are unscored and left out, so it has no rank."


def test_notes_tell_of_missing_values_and_seeds() -> None:
    results, known = example()
    frame = built([r for r in results if r.task != "facts"], known)
    assert "No capability for every row: no such task, or no scored answer." in notes(frame)
    assert any(note.endswith("prompt uncertainty only: base.") for note in notes(frame))
    assert any(note.startswith("One organism:") for note in notes(frame))
    broken = [r for r in results if (r.method, r.seed, r.task) != ("lora", 1, "safe")]
    frame = built(broken, known)
    assert frame["method"].tolist()[-1] == "lora" and frame["rank"].tolist()[-1] is None
    assert any(note.startswith("No alignment score for lora:") for note in notes(frame))


def test_csv_comes_back_as_it_was(tmp_path: Path) -> None:
    results, known = example()
    known["sails"] = replace(known["sails"], model="=HYPERLINK(1)", sae="@x")
    frame = built(results, known)
    write_frame(tmp_path / "leaderboard.csv", frame)
    text = (tmp_path / "leaderboard.csv").read_text()
    assert ",'=HYPERLINK(1),'@x," in text and ",=HYP" not in text
    pd.testing.assert_frame_equal(pd.DataFrame(read_rows(tmp_path / "leaderboard.csv")), frame, check_dtype=False)
    assert check(board_file(tmp_path)) == []


def test_markdown_shows_intervals_legend_warnings_and_provenance() -> None:
    results, known = example(base=(0.2, 0.896))
    known["full"] = replace(known["full"], model="a|b<script>\n# x")
    known["lora"] = replace(known["lora"], warnings=("learning rate at the edge", "the base model's answers"))
    known["full"] = replace(known["full"], warnings=("learning rate at the edge",))
    frame = built(results, known)
    text = to_markdown(frame, title="T")
    [line] = [line for line in text.splitlines() if line.startswith("| 4 | base |")]
    interval = estimates(results, TASKS, {"base": Choice("base", None)})["base"]["alignment_score"]
    assert interval.value == pytest.approx(-0.004)
    assert f"| 0.00 [{interval.low:.2f}, {interval.high:.2f}] |" in line  # and not -0.00
    assert "- lora, full: learning rate at the edge.\n" in text and "- lora: the base model's answers.\n" in text
    headings = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert [f"**{heading}**" in text for heading in headings] == [True] * len(headings)
    assert r"- model: a\|b\<script\> # x, tiny" in text and "- judge: rules" in text
    assert "- judge agreement: 99 % of 100 answers\n" in text and r"- sails - full, alignment score: +0.408 \[" in text
    table, _ = text.split("\nBrackets hold")
    assert {line.count("|") for line in table.splitlines() if line.startswith("|")} == {len(headings) + 1}


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        ({"labelled_examples": 32}, None),
        (
            {"labelled_examples": 128, "further_examples": 96, "contrast_examples": 100, "contrast_tokens": 4000},
            "saw 100 labelled examples (4,000 tokens) before training, "
            "96 labelled examples beyond its training sample, 128 labelled examples in total (rows without",
        ),
        (
            {"labelled_examples": 32, "rejected_answers": 30},
            "saw 30 rejected answers, 32 labelled examples in total (rows without",
        ),
        ({"labelled_examples": 32, "saw": ("a model (rlhf)",)}, "saw a model (rlhf) (rows without"),
    ],
)
def test_what_a_method_saw_besides_its_training_sample_is_told(seen: dict[str, Any], told: str | None) -> None:
    known = RowFacts("tiny", **seen).known
    assert known == () if told is None else known[0].startswith(told)


def test_terminal_table_is_aligned() -> None:
    *lines, legend = to_terminal(board()).splitlines()
    assert len(lines) == 5 and legend.startswith("(not distinguished from these rows: no significant")
    column = lines[0].index("alignment score")
    assert [line[column - 2 : column] for line in lines] == ["  "] * 5
    assert all(re.match(r"-?\d\.\d\d \[", line[column:]) for line in lines[1:])
    assert max(map(len, lines)) <= 130


def test_the_order_of_the_results_changes_nothing() -> None:
    results, known = example()
    shuffled = built(results[::-1], dict(reversed(known.items())))
    pd.testing.assert_frame_equal(shuffled, board(), check_exact=True)


def test_a_board_that_rules_judged_says_what_they_miss() -> None:
    frame = board()
    assert any(note.startswith("Judged by phrase rules (rules)") for note in notes(frame))
    assert not any("phrase rules" in note for note in notes(frame.assign(judge="testbed")))


def test_no_p_value_is_nothing_even_on_a_board_of_an_earlier_version() -> None:
    frame = board().assign(contrasts="sails - lora, refusal: +0.300 [+0.200, +0.400], p = 0.000")
    assert "p = 0.000" not in to_markdown(frame) and r"p \< 0.001" in to_markdown(frame)
