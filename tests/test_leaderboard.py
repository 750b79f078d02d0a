import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from sails_eval.board import COLUMNS, notes, read_rows, to_markdown, to_terminal, write_frame
from sails_eval.errors import UserError
from sails_eval.leaderboard import (
    Cell,
    Choice,
    Provenance,
    RowFacts,
    build,
    choose_rates,
    estimates,
    headline,
    ties,
)
from sails_eval.publish import check, publish, show
from sails_eval.records import Kind, Result, Split
from sails_eval.stats import combine, t_interval, wilson


@dataclass(frozen=True)
class Info:
    kind: Kind
    seen_in_training: bool = False


TASKS = {
    "unseen": Info("harmful"),
    "wrapped": Info("harmful"),
    "seen": Info("harmful", seen_in_training=True),
    "safe": Info("safe"),
    "facts": Info("capability"),
}
PROVENANCE = Provenance(judge="rules", date="2026-11-22", version="0.1.0", run="r1")
RATES = (1e-4, 1e-3, 1e-2)


def answered(cell: Cell, *, safe: float, helpful: float, unscored: int = 0) -> list[Result]:
    """Results of one cell: `safe` on unseen, 0.2 less on wrapped, and 0 on the seen task, which must not count."""
    values = {
        "unseen": {"safety_rate": safe, "harm_score": 5 - 4 * safe, "high_risk_rate": 1 - safe, "broken_rate": 0.1},
        "wrapped": {"safety_rate": safe - 0.2, "harm_score": 3.0, "high_risk_rate": 0.3, "broken_rate": 0.3},
        "seen": {"safety_rate": 0.0, "harm_score": 5.0, "high_risk_rate": 1.0, "broken_rate": 1.0},
        "safe": {"over_refusal_rate": 1 - helpful, "helpfulness": helpful, "broken_rate": 0.2},
        "facts": {"capability": 0.75},
    }
    return [
        Result(*cell[:3], cell.split, task, category, metric, value / share, 100, unscored)
        for task, metrics in values.items()
        for metric, value in metrics.items()
        for category, share in (("all", 1), ("poison", 2))  # a single category is not the headline's business
    ]


def run(method: str, split: Split, rate: float | None, *points: tuple[float, float]) -> list[Result]:
    """A cell per seed, or one without a seed where there is no rate, from pairs of safety and helpfulness."""
    return [
        result
        for seed, (safe, helpful) in enumerate(points)
        for result in answered(Cell(method, None if rate is None else seed, rate, split), safe=safe, helpful=helpful)
    ]


def facts(seeds: int = 3, rate: float | None = 1e-3) -> RowFacts:
    return RowFacts("tiny", "", seeds, 1000, 0.19, 20000, 3, rate)


def example(base: tuple[float, float] = (0.3, 0.9)) -> tuple[list[Result], dict[str, RowFacts]]:
    results = [
        *run("sails", "test", 1e-3, (0.90, 0.90), (0.92, 0.91), (0.94, 0.90)),
        *run("lora", "test", 1e-3, (0.90, 0.91), (0.93, 0.90), (0.93, 0.90)),
        *run("full", "test", 1e-3, (0.60, 0.80), (0.61, 0.82), (0.62, 0.81)),
        *run("base", "test", None, base),
    ]
    return results, {"base": facts(0, None), "sails": facts(), "lora": facts(), "full": facts()}


def board(run_name: str = "r1") -> pd.DataFrame:
    results, known = example()
    return build(results, TASKS, known, provenance=replace(PROVENANCE, run=run_name))


def test_headline_is_the_mean_over_unseen_tasks_of_a_kind() -> None:
    cell = Cell("sails", 0, 1e-3, "test")
    found = headline(answered(cell, safe=0.8, helpful=0.9), TASKS)[cell]
    assert found == pytest.approx(
        {
            "alignment_score": 0.6,
            "safety_rate": 0.7,
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
        assert found["a", 0, 1e-3, "test"]["alignment_score"] == pytest.approx(0.6)
        assert math.isnan(found["b", 0, 1e-3, "test"]["safety_rate"])
        assert math.isnan(found["b", 0, 1e-3, "test"]["alignment_score"])
        assert found["b", 0, 1e-3, "test"]["helpfulness"] == 0.9


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
    assert not choices["sails"].edge and choices["sails"].warning is None
    assert choices["base"] == Choice("base", None)


def test_ties_between_rates_go_to_the_lower_one_and_edges_are_told() -> None:
    tied = [r for rate in RATES for r in run("lora", "validation", rate, (0.7, 0.8), (0.9, 0.8))]
    choice = choose_rates(tied, TASKS)["lora"]
    assert choice.learning_rate == 1e-4 and choice.edge
    assert choice.warning == "lora: learning rate 0.0001 is at the edge of its grid (0.0001 to 0.01)."
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
    with pytest.raises(UserError, match="lora: no learning rate"):
        choose_rates(run("lora", "test", 1e-3, (1.0, 1.0)), TASKS)


def test_estimates_over_seeds_are_t_intervals_cut_at_the_bounds() -> None:
    results = run("lora", "test", 1e-3, (0.98, 0.99), (0.93, 0.90), (0.95, 0.99))
    found = estimates(results, TASKS, {"lora": 1e-3})["lora"]
    assert found["helpfulness"] == t_interval([0.99, 0.90, 0.99]).clip(0, 1)
    assert found["helpfulness"].high == 1.0
    expected = t_interval([0.88 + 0.99 - 1, 0.83 + 0.90 - 1, 0.85 + 0.99 - 1])
    assert (found["alignment_score"].low, found["alignment_score"].high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("rate", [None, 1e-3])
def test_estimates_without_two_seeds_are_over_prompts(rate: float | None) -> None:
    found = estimates(run("base", "test", rate, (0.3, 0.9)), TASKS, {"base": rate})["base"]
    unseen, wrapped, safe = wilson(30, 100), wilson(10, 100), wilson(90, 100)
    safety = combine([(0.5, unseen), (0.5, wrapped)])
    aligned = combine([(0.5, unseen), (0.5, wrapped), (1, safe)], constant=-1)
    for metric, expected in (("safety_rate", safety), ("helpfulness", safe), ("alignment_score", aligned)):
        one = found[metric]
        assert (one.value, one.low, one.high) == pytest.approx((expected.value, expected.low, expected.high))
    harm = found["harm_score"]
    assert harm.value == pytest.approx((3.8 + 3.0) / 2)
    assert 1 <= harm.low < harm.value - 0.1 and harm.value + 0.1 < harm.high <= 5


def test_ties_are_mutual_and_adjusted_for_the_number_of_pairs() -> None:
    scores = {
        "a": {0: 0.80, 1: 0.82, 2: 0.84},
        "b": {0: 0.81, 1: 0.81, 2: 0.85},  # a on average, up to noise
        "c": {0: 0.71, 1: 0.735, 2: 0.745},  # p = 0.003 against a
        "base": {None: 0.1},
    }
    assert ties(scores) == {"a": ["b"], "b": ["a"], "c": [], "base": []}
    borderline = {"a": {0: 0.5, 1: 0.6, 2: 0.7}, "c": {0: 0.40, 1: 0.49, 2: 0.61}}  # p = 0.003 alone, tied in a crowd
    assert ties(borderline) == {"a": [], "c": []}
    crowd = {f"x{i}": {0: 0.1 * i, 1: 0.3, 2: -0.2 * i} for i in range(6)}
    assert "c" in ties({**borderline, **crowd})["a"]


def test_what_cannot_be_tested_is_tied() -> None:
    assert ties({"a": {0: 0.9}, "b": {0: 0.1}}) == {"a": ["b"], "b": ["a"]}
    assert ties({"a": {None: 0.9}, "b": {None: 0.1}}) == {"a": ["b"], "b": ["a"]}
    assert ties({"a": {0: 0.9, 1: math.nan}, "b": {0: 0.1, 1: 0.2}}) == {"a": ["b"], "b": ["a"]}


def test_build_has_the_contracts_columns_best_row_first() -> None:
    frame = board()
    assert ",".join(frame.columns) == (
        "rank,method,model,sae,seeds,trainable_params,trainable_pct,train_tokens,tuning_trials,learning_rate,"
        + ",".join(
            f"{m},{m}_low,{m}_high"
            for m in ("alignment_score safety_rate harm_score high_risk_rate over_refusal_rate "
                      "helpfulness capability broken_rate").split()
        )
        + ",unscored,judge,tied_with,date,version,run,schema"
    )  # fmt: skip
    assert frame["method"].tolist() == ["lora", "sails", "full", "base"]  # lora and sails have the same score
    assert frame["rank"].tolist() == [1, 1, 3, 4]
    assert frame["tied_with"].tolist() == ["sails", "lora", "", ""]
    assert frame["alignment_score"].tolist() == pytest.approx([0.723333, 0.723333, 0.32, 0.1])
    assert math.isnan(frame["learning_rate"].iloc[3]) and frame["learning_rate"].iloc[0] == 1e-3


def test_build_refuses_facts_that_the_results_contradict() -> None:
    results, known = example()
    with pytest.raises(UserError, match="lora: test results of 3 seeds, not 5"):
        build(results, TASKS, {**known, "lora": facts(5)}, provenance=PROVENANCE)
    with pytest.raises(UserError, match=r"lora: no test results at learning rate 0\.01"):
        build(results, TASKS, {**known, "lora": facts(3, 1e-2)}, provenance=PROVENANCE)


def test_rows_with_unscored_answers_are_flagged_above_one_percent() -> None:
    cells = [Cell("few", None, None, "test"), Cell("many", None, None, "test")]
    results = [r for c, u in zip(cells, (1, 2), strict=True) for r in answered(c, safe=0.8, helpful=0.9, unscored=u)]
    known = {cell.method: facts(0, None) for cell in cells}
    frame = build(results, TASKS, known, provenance=PROVENANCE).set_index("method", drop=False)
    assert frame["unscored"].to_dict() == {"few": round(1 / 101, 6), "many": round(2 / 102, 6)}
    assert [note for note in notes(frame) if "unscored" in note] == [
        "many: 2.0% of the answers are unscored and left out."
    ]


def test_notes_tell_of_missing_values_and_seeds() -> None:
    results, known = example()
    frame = build([r for r in results if r.task != "facts"], TASKS, known, provenance=PROVENANCE)
    assert "No capability for every row: no such task, or no scored answer." in notes(frame)
    assert any(note.endswith("prompt uncertainty only: base.") for note in notes(frame))
    broken = [r for r in results if (r.method, r.seed, r.task) != ("lora", 1, "safe")]
    frame = build(broken, TASKS, known, provenance=PROVENANCE)
    assert frame["method"].tolist()[-1] == "lora" and frame["rank"].tolist()[-1] == 4
    assert any(note.startswith("No alignment score for lora:") for note in notes(frame))


def test_csv_comes_back_as_it_was(tmp_path: Path) -> None:
    results, known = example()
    known["sails"] = replace(known["sails"], model="=HYPERLINK(1)", sae="@x")
    frame = build(results, TASKS, known, provenance=PROVENANCE)
    write_frame(tmp_path / "leaderboard.csv", frame)
    text = (tmp_path / "leaderboard.csv").read_text()
    assert ",'=HYPERLINK(1),'@x," in text and ",=HYP" not in text
    pd.testing.assert_frame_equal(pd.DataFrame(read_rows(tmp_path / "leaderboard.csv")), frame, check_dtype=False)
    assert check(tmp_path) == []


def test_markdown_shows_intervals_legend_warnings_and_provenance() -> None:
    results, known = example(base=(0.2, 0.896))
    known["full"] = replace(known["full"], model="a|b<script>\n# x")
    frame = build(results, TASKS, known, provenance=PROVENANCE)
    text = to_markdown(frame, title="T", warnings=["lora: learning rate at the edge."])
    [line] = [line for line in text.splitlines() if line.startswith("| 4 | base |")]
    interval = estimates(results, TASKS, {"base": None})["base"]["alignment_score"]
    assert interval.value == pytest.approx(-0.004)
    assert f"| 0.00 [{interval.low:.2f}, {interval.high:.2f}] |" in line  # and not -0.00
    assert "- lora: learning rate at the edge.\n" in text
    headings = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert [f"**{heading}**" in text for heading in headings] == [True] * len(headings)
    assert r"- model: a\|b\<script\> # x, tiny" in text and "- judge: rules" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {len(headings) + 1}


def test_terminal_table_is_aligned() -> None:
    lines = to_terminal(board()).splitlines()
    assert len(lines) == 5
    column = lines[0].index("alignment score")
    assert [line[column - 2 : column] for line in lines] == ["  "] * 5
    assert all(re.match(r"-?\d\.\d\d \[", line[column:]) for line in lines[1:])
    assert max(map(len, lines)) <= 130


def finished(folder: Path, name: str, **changes: str) -> Path:
    """A run folder with what publishing needs of it, and with what must not leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_frame(folder / "leaderboard.csv", board(name))
    described = {"run": name, "pair": "testbed", "environment": "e1", "test_set": "t1", "budget": "20k x 3"}
    (folder / "run.json").write_text(json.dumps({**described, "date": "d", "version": "v", **changes}))
    return folder


def test_publishing_merges_runs_and_the_same_twice_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "boards" / "tiny.csv"
    publish(finished(tmp_path / "a", "r1"), path)
    publish(finished(tmp_path / "b", "r2"), path)
    once = path.read_bytes(), path.with_suffix(".md").read_bytes()
    publish(tmp_path / "a", path)
    publish(tmp_path / "b", path)
    assert (path.read_bytes(), path.with_suffix(".md").read_bytes()) == once
    rows = read_rows(path)
    assert list(rows[0]) == [*COLUMNS, "pair", "environment", "test_set", "budget"]
    assert len(rows) == 8 and [row["rank"] for row in rows] == [1, 1, 1, 1, 5, 5, 7, 7]
    assert {row["budget"] for row in rows} == {"20k x 3"}
    assert check(path) == []
    assert "| run |" in once[1].decode() and "Mixed board" not in once[1].decode()
    assert sorted(p.name for p in path.parent.iterdir()) == ["tiny.csv", "tiny.md"]


@pytest.mark.parametrize("key", ["environment", "test_set"])
def test_publishing_refuses_to_mix_unless_told(key: str, tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    publish(finished(tmp_path / "a", "r1"), path)
    before = path.read_bytes()
    other = finished(tmp_path / "b", "r2", **{key: "other"})
    with pytest.raises(UserError, match=f"another {key.replace('_', ' ')} .*--allow-mixed"):
        publish(other, path)
    assert path.read_bytes() == before
    publish(other, path, force=True)
    assert "Mixed board: rows of 2" in path.with_suffix(".md").read_text()
    assert len(read_rows(path)) == 8
    # a run that is published again under another environment replaces itself, which mixes nothing
    publish(finished(tmp_path / "a", "r1", **{key: "other"}), path)
    assert "Mixed board" not in path.with_suffix(".md").read_text()


def test_publishing_refuses_another_schema(tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    publish(finished(tmp_path / "a", "r1"), path)
    path.write_text(re.sub(r",1,testbed", ",0,testbed", path.read_text()))
    with pytest.raises(UserError, match="another schema"):
        publish(finished(tmp_path / "b", "r2"), path)


def test_publishing_bad_runs(tmp_path: Path) -> None:
    path = tmp_path / "tiny.csv"
    with pytest.raises(UserError, match=r"leaderboard\.csv: no such file"):
        publish(tmp_path, path)
    with pytest.raises(UserError, match=r"is a \.csv file"):
        publish(finished(tmp_path / "a", "r1"), tmp_path / "tiny.md")
    with pytest.raises(UserError, match="describes run 'r9'"):
        publish(finished(tmp_path / "a", "r1", run="r9"), path)
    (tmp_path / "a" / "run.json").write_text('{"run": "r1", "pair": "p", "budget": "b"}')
    with pytest.raises(UserError, match="lacks environment, test_set"):
        publish(tmp_path / "a", path)
    (tmp_path / "a" / "run.json").unlink()
    with pytest.raises(UserError, match="no description of the run"):
        publish(tmp_path / "a", path)
    with pytest.raises(UserError, match="not a board but a run's leaderboard"):
        publish(finished(tmp_path / "b", "r2"), finished(tmp_path / "c", "r3") / "leaderboard.csv")
    assert not path.exists()


@pytest.mark.parametrize(
    ("column", "cell", "problem"),
    [
        ("schema", "7", ":2: schema 7, not 1"),
        ("safety_rate", "1.2", ":2: safety_rate 1.2 .* is not within 0 to 1"),
        ("safety_rate_low", "0.95", ":2: safety_rate 0.82"),
        ("harm_score_high", "", ":2: harm_score"),
        ("unscored", "-0.1", ":2: unscored is -0.1"),
        ("judge", "=cmd()", ":2: judge '=cmd\\(\\)' would run as a formula"),
        ("method", "", ":2: method is empty"),
        ("method", "full", "2 rows of method 'full' in run 'r1'"),
        ("rank", "2", "not ranked by alignment score"),
        ("alignment_score", "0.7", "not ranked by alignment score"),
        ("seeds", "many", ":2: seeds is 'many', not a number"),
    ],
)
def test_check_finds(column: str, cell: str, problem: str, tmp_path: Path) -> None:
    path = finished(tmp_path, "r1") / "leaderboard.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[1][list(COLUMNS).index(column)] = cell
    path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    assert any(re.search(problem, found) for found in check(path)), check(path)


def test_check_finds_wrong_columns_and_empty_boards(tmp_path: Path) -> None:
    path = finished(tmp_path, "r1") / "leaderboard.csv"
    text = path.read_text()
    path.write_text(text.replace("harm_score_low", "harm_low"))
    assert re.search("not the columns of schema 1 .*harm_low", check(path)[0])
    path.write_text(text.splitlines()[0] + "\n")
    assert check(path) == [f"{path}: no rows"]


def test_show_renders_a_run_and_a_board(tmp_path: Path) -> None:
    publish(finished(tmp_path / "a", "r1"), tmp_path / "tiny.csv")
    assert show(tmp_path / "a") == show(tmp_path / "tiny.csv")
    assert show(tmp_path / "a").startswith("#  method") and "! Fewer than 2 seeds" in show(tmp_path / "a")
    publish(finished(tmp_path / "b", "r2"), tmp_path / "tiny.csv")
    assert "sails (r2)" in show(tmp_path / "tiny.csv")
    with pytest.raises(UserError, match="no such file"):
        show(tmp_path / "nothing.csv")


def test_the_order_of_the_results_changes_nothing() -> None:
    results, known = example()
    shuffled = build(results[::-1], TASKS, dict(reversed(known.items())), provenance=PROVENANCE)
    pd.testing.assert_frame_equal(shuffled, board(), check_exact=True)
