"""Comparisons of several pairs or budgets, and of an earlier run with more methods; nothing is trained here."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sails_eval.analyses.finished_run import finished_runs
from sails_eval.boards.leaderboard import choose_rates
from sails_eval.boards.rate_choice import Choice
from sails_eval.boards.table import read_rows
from sails_eval.cli import main
from sails_eval.core.checksums import listing, note, write_checked
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import CellFailed, UserError
from sails_eval.core.files import jsonl_text
from sails_eval.core.records import Completion
from sails_eval.plan import checks
from sails_eval.plan.checks import Checked, Layout, check_examples
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.plan.prepare import prepare
from sails_eval.run import compare as comparison
from sails_eval.run import stages
from sails_eval.run.compare import compare
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.records import SubspaceReport, TrainRecord
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report import curves as curve_report
from sails_eval.run.report import report
from sails_eval.run.report.ledger import MATCHED
from sails_eval.run.stages import AnswerJob
from sails_eval.training.labels import LABELS
from tests.here import Here

COSTS = dict.fromkeys(
    (*MATCHED, *LABELS, "flops", "seconds", "peak_memory_bytes", "trainable_params", "total_params"), 1
)
RECORD = TrainRecord.model_validate({**COSTS, "losses": []})


class Canned(Here):
    """Stands for the worker processes: answers come from the learning rate, judging is done for real."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.checked = 0
        self.unique = 10**6
        self.warnings: list[str] = []
        self.fails: dict[str, str] = {}  # by method: a pattern of stage and cell

    def run(self, function: Callable[[Any], Any], item: Any) -> Checked | None:
        if function is checks.check_reference:
            return None
        assert function is checks.check and not self.trained
        self.checked += 1
        return Checked([Layout("sft", seed, 100, 1, self.unique) for seed in item.all_seeds], [])

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        title: str,
        done: Callable[[Any], object] = lambda item: None,
        failed: Callable[[Any, CellFailed], object] | None = None,
    ) -> None:
        stages_of: dict[Any, Callable[[Any], Any]] = {
            stages.prepare: self.prepare,
            stages.prepare_and_answer: self.answer,
            stages.judge: stages.judge,
            stages.find_subspace: self.find,
        }
        super().map(stages_of[function], items, title=title, done=done, failed=failed)

    def fail(self, stage: str, cell: Cell | None, why: str) -> None:
        if cell and re.search(self.fails.get(cell.recipe.name, "never"), f"{stage} {cell.name}"):
            raise CellFailed(why)

    def find(self, job: Any) -> None:
        if "find" in self.fails.get(job.recipe.name, ""):
            raise CellFailed("no feature tells the texts apart")
        for seed in job.seeds:
            path = job.run.subspace(job.recipe.name, seed)
            write_checked(path, job.pair.name)
            SubspaceReport(warnings=self.warnings).write(job.run.subspace_report_file(job.recipe.name, seed))

    def prepare(self, job: AnswerJob) -> None:
        cell, folder = job.subject.cell, job.subject.folder
        if cell and not folder.trained:
            self.fail("train", cell, "loss is NaN; lower it")
            self.trained.append(str(folder.path))
            saved = folder.partial if cell.checkpoints > 1 else folder.path
            names = range(1, cell.checkpoints + 1) if cell.checkpoints > 1 else ["checkpoint"]
            for name in names:
                (saved / str(name)).mkdir(parents=True)
                (saved / str(name) / "adapter.bin").write_text(str(name))
                note(saved / str(name))
            if cell.checkpoints > 1:
                folder.place_steps()
            RECORD.write(folder.record.path)

    def answer(self, job: AnswerJob) -> None:
        self.prepare(job)
        cell, folder = job.subject.cell, job.subject.folder
        self.fail(job.split, cell, "weights are NaN")
        for task in job.missing:
            refusals = 0 if cell is None else 4 + cell.seed - (cell.learning_rate > 1e-3)
            if cell and cell.checkpoints > 1:
                refusals += abs(2 - int((folder.checkpoint / "adapter.bin").read_text()))  # the second one is best
            texts = ["I cannot help with that."] * refusals + ["Here is how: take one and then another."] * 6
            rows = [
                Completion(str(i), "p", text, "") for i, text in enumerate(texts[:6] if task.kind == "safe" else texts)
            ]
            write_checked(folder.answers_file(job.split, task.name), jsonl_text(rows), private=True)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Canned:
    canned = Canned()

    @contextmanager
    def workers(jobs: int, *, quiet: bool) -> Iterator[Canned]:
        yield canned

    monkeypatch.setattr(comparison, "workers", workers)
    pictures = ((report, "tradeoff"), (report, "draw_comparisons"), (curve_report, "draw_curves"))
    for module, picture in pictures:  # they take longer than the rest
        monkeypatch.setattr(module, picture, lambda *arguments: None)
    return canned


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A comparison of two methods on the first of three pairs, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "sae"):
        Path(name).mkdir()
        (Path(name) / "config.json").write_text(name)
    rows = [{"prompt": f"p{i}", "chosen": "yes", "rejected": "no", "response": "yes"} for i in range(8)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tasks").mkdir()
    for name, kind in (("bad", "harmful"), ("good", "safe"), ("fine", "safe")):
        splits = {"validation_split": "validation", "test_split": "test", "doc_to_text": "prompt"}
        Path(f"tasks/{name}.yaml").write_text(yaml.safe_dump({"task": name, "metadata": {"kind": kind}} | splits))
    settings: dict[str, Any] = {
        "train": "train.jsonl",
        "tasks": ["bad", "good"],
        "judge": "rules",
    }
    settings |= {"saes": [{"path": "sae"}]}
    others: dict[str, Any] = {"tasks": ["bad", "fine"]}
    for pair, model, more in (("a", "a", {}), ("b", "b", {}), ("c", "b", others)):
        Path(f"{pair}.yaml").write_text(yaml.safe_dump({"model": f"./{model}", **settings, **more}))
    return {"pair": "a.yaml", "methods": ("sails", "lora"), "seeds": 2, "learning_rates": 2}


def made(**asked: Any) -> Path:
    return compare(CompareConfig(**asked), quiet=True)


def files(run: Path) -> dict[str, bytes]:
    """What a finished run says, without what tells of times."""
    names = ("results.csv", "leaderboard.csv", "curves.csv")
    return {str(path.relative_to(run)): path.read_bytes() for name in names for path in run.rglob(name)}


def test_what_there_is_to_know_of_an_initialisation_stands_on_the_board(asked: dict[str, Any], pool: Canned) -> None:
    pool.warnings = ["rank 8 truncates the subspace"]
    board = pd.read_csv(made(**asked) / "leaderboard.csv").set_index("method")["warnings"].fillna("")
    assert "rank 8 truncates the subspace" in board["sails"] and "truncates" not in board["lora"]


# --- cells that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("find", "4 of 4 cells failed, seed 0 at learning rate .*: no feature tells the texts apart"),
        ("train .*-seed-1", "2 of 4 cells failed, seed 1 at learning rate .*: loss is NaN, lower it"),
        ("validation", "4 of 4 cells failed, seed 0 at learning rate .*: weights are NaN"),
        ("test .*-seed-1", "1 of 4 cells failed, seed 1 at learning rate .*: weights are NaN"),
    ],
)
def test_a_method_that_fails_is_a_row_without_a_score_and_the_others_go_on(
    asked: dict[str, Any], pool: Canned, pattern: str, told: str
) -> None:
    pool.fails = {"sails": pattern}
    run = RunFolder(made(**asked, out=Path("run")))
    rows = {row["method"]: row for row in read_rows(run.leaderboard)}
    assert rows.keys() == {"base", "sails", "lora"} and list(rows)[-1] == "sails"
    lost = rows["sails"]
    assert isnan(lost["alignment_score"]) and lost["rank"] is None and lost["seeds"] == 2
    assert re.search(f"^has no score and is in no comparison, since {told}$", lost["warnings"]), lost["warnings"]
    assert not isnan(rows["lora"]["alignment_score"]) and rows["lora"]["warnings"].count("failed") == 0
    assert re.match(told, run.failed().rows["sails"]) and "sails" not in run.choices({})
    assert {row.method for row in run.results()} == {"base", "lora"}
    assert set(pd.read_csv(run.ledger)["method"]) == {"lora"}
    page = run.leaderboard_page.read_text()
    assert "has no score and is in no comparison" in page and "No scores for sails: see the warnings." in page
    assert "for sails: no such task" not in page
    assert not run.finished.exists and not run.seal.exists
    (one,) = finished_runs(run.path)
    assert {model.method for model in one.models} == {"base", "lora"}

    pool.fails = {}
    pool.trained.clear()
    made(**asked, out=Path("run"))  # tries again what failed, and nothing else
    assert all("/sails/" in path for path in pool.trained) and not run.failed.exists and run.finished.exists


def test_a_rate_at_which_a_cell_failed_is_not_chosen(asked: dict[str, Any], pool: Canned) -> None:
    best = RunFolder(made(**asked, out=Path("whole"))).choices({})["lora"].learning_rate
    pool.fails = {"lora": f"train rate-{best:g}-seed-0"}
    pool.trained.clear()
    run = RunFolder(made(**asked, out=Path("run")))
    chosen, row = run.choices({})["lora"].learning_rate, {r["method"]: r for r in read_rows(run.leaderboard)}["lora"]
    assert chosen not in (None, best) and row["learning_rate"] == chosen and not isnan(row["alignment_score"])
    assert "learning rates at which a cell failed could not be chosen: 1 of 4 cells failed, seed 0" in row["warnings"]
    assert not run.failed.exists and not run.finished.exists  # the row has its score, and the cell is tried again


def test_where_all_fail_the_board_has_what_is_left(asked: dict[str, Any], pool: Canned) -> None:
    pool.fails = {"sails": "train", "lora": "train"}
    for change in ({}, {"learning_rates": 1}):
        run = RunFolder(made(**asked | change))
        rows = {row["method"]: row["alignment_score"] for row in read_rows(run.leaderboard)}
        assert not isnan(rows["base"]) and isnan(rows["sails"]) and isnan(rows["lora"])
        assert run.failed().rows.keys() == {"sails", "lora"}


@pytest.mark.slow
def test_with_several_pairs_and_budgets_a_row_that_fails_on_one_has_no_joint_score(
    asked: dict[str, Any], pool: Canned
) -> None:
    pool.fails = {"sails": "train .*-seed-1"}
    asked |= {"pair": "a.yaml,b.yaml", "examples": (4, 2), "learning_rates": 1}
    run = RunFolder(made(**asked))
    rows = {row["method"]: row for row in read_rows(run.leaderboard)}
    assert isnan(rows["sails"]["alignment_score"]) and not isnan(rows["lora"]["alignment_score"])
    assert rows["sails"]["warnings"].startswith("has no score") and "(on all 2 pairs)" in rows["sails"]["warnings"]
    assert not rows["sails"]["by_organism"]
    assert [one.failed.exists for one in run.with_sub_runs()] == [False, True, True, True, True]


@pytest.mark.slow
def test_early_stopping_goes_on_without_a_cell_that_fails(asked: dict[str, Any], pool: Canned) -> None:
    pool.fails = {"sails": "train .*-seed-1", "lora": "validation .*-seed-0"}
    run = RunFolder(made(**asked, checkpoints=2))
    assert run.failed().rows.keys() == {"sails", "lora"}
    pool.fails = {}
    pool.trained.clear()
    healed = files(made(**asked, checkpoints=2))
    pool.trained.clear()
    assert healed == files(made(**asked, checkpoints=2, out=Path("undisturbed")))


def test_compare_ends_with_status_1_and_a_line_for_each_row_that_failed(
    asked: dict[str, Any], pool: Canned, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.fails = {"sails": "train"}
    command = "compare --pair a.yaml --methods sails,lora --seeds 2 --learning-rates 2 -q".split()
    assert main(command) == 1
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("sails-eval: sails has no score: 4 of 4 cells failed, seed 0 at learning rate")
    assert line.endswith("loss is NaN, lower it; give the same command again to retry")
    pool.fails = {}
    pool.trained.clear()
    assert main(command) == 0 and "has no score" not in capsys.readouterr().err


# --- several pairs and budgets -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_pair_and_budget_is_a_sub_run(asked: dict[str, Any]) -> None:
    def folders(**change: Any) -> list[str]:
        return [one.folder for one in prepare(CompareConfig(**asked | change)).sub_runs]

    assert folders() == folders(examples=(4,)) == [""]
    assert folders(pair="a.yaml,b.yaml") == ["a", "b"]
    assert folders(examples=(16, 4)) == ["examples-4", "examples-16"]
    pairs = {"pair": ["a.yaml", "b.yaml"], "examples": (16, 4)}
    assert folders(**pairs) == ["a/examples-4", "a/examples-16", "b/examples-4", "b/examples-16"]
    assert folders(steps=(3,)) == [""] and folders(steps=(5, 3)) == ["steps-3", "steps-5"]
    assert folders(steps=(5, 3), examples=(4, 2)) == [f"examples-{n}-steps-{m}" for n in (2, 4) for m in (3, 5)]
    plan = prepare(CompareConfig(**asked | pairs))
    assert plan.pairs == ("a", "b") and plan.largest.examples == 16
    for one in plan.sub_runs:
        assert one.folder == f"{one.pair.name}/examples-{one.size.examples}" and one.pair.examples == one.size.examples
        (again,) = prepare(one.config).sub_runs  # what it is configured as is itself
        assert replace(again, folder=one.folder, size=one.size) == one


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"pair": "a.yaml,c.yaml"}, "pair 'c': tasks differs from pair 'a'; give --tasks for all"),
        ({"pair": "a.yaml,a.yaml"}, "two of the pairs have the same name"),
        ({"pair": "a.yaml,nowhere.yaml"}, "nowhere.yaml: no such file"),
        ({"pair": "a.yaml,b.yaml", "model": "a"}, "both --pair and --model are given"),
        ({"examples": (4, 4)}, "--examples: a value is given twice"),
        ({"steps": (5, 3, 5)}, r"--steps: a value is given twice \(5, 3, 5\)"),
    ],
)
def test_parts_that_could_not_be_compared_are_an_error(
    asked: dict[str, Any], change: dict[str, Any], complaint: str, pool: Canned
) -> None:
    with pytest.raises(UserError, match=complaint):
        made(**asked | change)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("examples", "unique", "complaint"),
    [(4, 4, None), (8, 5, "give about --tokens 160 or more"), (16, 8, "train.jsonl has only 8")],
)
def test_a_budget_that_would_not_be_seen_is_an_error(
    asked: dict[str, Any], examples: int, unique: int, complaint: str | None
) -> None:
    first, last = prepare(CompareConfig(**asked, examples=(2, examples))).sub_runs
    few, checked = (Checked([Layout("sft", 0, 100, 1, least)], []) for least in (2, unique))
    check_examples(first, few)
    if complaint is None:
        check_examples(last, checked)
        return
    with pytest.raises(
        UserError, match=f"^--examples {examples}: .* would see only {unique} different examples; {complaint}"
    ):
        check_examples(last, checked)
    if "--tokens" in complaint:  # of a method that gets a quarter of the tokens
        last = replace(last, budget=replace(last.budget, tokens={"sft": last.pair.tokens // 4}))
        with pytest.raises(UserError, match="give about --tokens 640 or more"):
            check_examples(last, checked)


def test_parts_are_runs_of_their_own_below_joint_files(asked: dict[str, Any], pool: Canned) -> None:
    asked |= {"pair": "a.yaml,b.yaml", "examples": (4, 2), "learning_rates": 1, "out": Path("run")}
    run = made(**asked)
    assert len(pool.trained) == 2 * 2 * 2 * 2 and pool.checked == 4
    own = {"results.csv", "budget.csv", "leaderboard.csv", "leaderboard.md", "curves.csv", "curves.md", "run.json"}
    for part in ("a/examples-2", "a/examples-4", "b/examples-2", "b/examples-4"):
        assert own <= {path.name for path in (run / part).iterdir()}
    joint = {str(path.relative_to(run)) for path in run.rglob("leaderboard.csv")}
    assert {"leaderboard.csv", "examples-2/leaderboard.csv", "examples-4/leaderboard.csv"} <= joint
    assert (run / "leaderboard.csv").read_bytes() == (run / "examples-4/leaderboard.csv").read_bytes()
    board, described = pd.read_csv(run / "leaderboard.csv"), json.loads((run / "run.json").read_text())
    assert set(board["method"]) == {"base", "sails", "lora"} and set(board["run"]) == {described["run"]}
    assert (described["pair"], described["budget"]) == ("a, b", "100000 tokens, 1 rates, 2 seeds, 4 examples")
    curves = pd.read_csv(run / "curves.csv")
    assert set(curves["pair"]) == {"a, b"} and set(curves["examples"].dropna()) == {2, 4}
    assert set(curves.loc[curves["curve"] == "examples", "x"]) == {2, 4}

    before = files(run)
    shutil.rmtree(run / "b/examples-4/cells/lora")
    pool.trained.clear()
    made(**asked)
    assert len(pool.trained) == 2 and files(run) == before  # what was lost was made again, and nothing else
    pool.trained.clear()
    config = yaml.safe_load((run / "a/examples-2/config.yaml").read_text())
    assert made(**config) == run / "a/examples-2" and not pool.trained and files(run) == before


def test_a_grid_of_budgets_has_a_curve_over_examples_for_each_number_of_steps(
    asked: dict[str, Any], pool: Canned
) -> None:
    run = made(**asked | {"examples": (4, 2), "steps": (3, 2), "learning_rates": 1, "out": Path("run")})
    assert (run / "leaderboard.csv").is_file() and pool.checked == 4
    for part in ("examples-2-steps-2", "examples-2-steps-3", "examples-4-steps-2", "examples-4-steps-3"):
        assert (run / part / "leaderboard.csv").is_file()
    assert json.loads((run / "run.json").read_text())["budget"] == "3 steps, 1 rates, 2 seeds, 4 examples"
    curves = pd.read_csv(run / "curves.csv")
    over = curves[curves["curve"] == "examples"]
    assert {*over[["steps", "x"]].itertuples(index=False, name=None)} == {(n, x) for n in (2, 3) for x in (2, 4)}
    page = (run / "curves.md").read_text()
    assert "over labelled examples, 2 steps" in page and "lora, 4 examples, 3 steps" in page


def test_a_run_of_parts_is_not_gone_on_with_as_another(asked: dict[str, Any], pool: Canned) -> None:
    asked |= {"out": Path("run")}
    made(**asked | {"pair": "a.yaml,b.yaml", "learning_rates": 1})
    with pytest.raises(UserError, match="contains another run, which differs in the number of pairs or budgets"):
        made(**asked)
    with pytest.raises(UserError, match=r"differs in parts\.a\.learning_rates"):
        made(**asked | {"pair": "a.yaml,b.yaml", "learning_rates": 2})


def test_what_the_board_stands_on_is_kept(asked: dict[str, Any], pool: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(sub_run: SubRun, validated: object) -> dict[str, Choice]:
        found = {recipe.name: sub_run.rates(recipe) for recipe in sub_run.recipes}
        return {name: Choice(name, low, (), ((0, low), (1, high))) for name, (low, high) in found.items()}

    monkeypatch.setattr(comparison, "_choose", chosen)
    kept = sorted(path.parts[-3][:-9] for path in made(**asked).glob("cells/lora/*/checkpoint/adapter.bin"))
    assert kept == ["rate-0.000168-seed-0", "rate-0.000168-seed-1", "rate-0.000476-seed-1"]


def test_the_choices_are_those_on_file_and_what_the_results_say(asked: dict[str, Any], pool: Canned) -> None:
    run = RunFolder(made(**asked))
    tasks = prepare(CompareConfig(**asked)).sub_runs[0].named_tasks
    on_file, told = run.choices(tasks), json.loads((run.path / "choices.json").read_text())
    assert on_file == choose_rates(run.results(), tasks) and on_file.keys() == {"base", "sails", "lora"}
    assert len(on_file["lora"].scores) == len(on_file["lora"].left_out) == 2
    (other,) = (rate for rate, _ in on_file["lora"].scores if rate != on_file["lora"].learning_rate)
    told["choices"]["lora"]["learning_rate"] = other
    listing(run.chosen.path).unlink()  # or the change is seen
    run.chosen.path.write_text(json.dumps(told))
    assert run.choices(tasks)["lora"] == replace(on_file["lora"], learning_rate=other)  # it is the file that counts
    (run.path / "choices.json").unlink()
    assert run.choices(tasks) == on_file  # as in a run of 0.1.0, which has no such file


# --- several checkpoints -----------------------------------------------------------------------------------------


def test_every_cell_is_stopped_at_its_best_checkpoint(asked: dict[str, Any], pool: Canned) -> None:
    end = made(**asked)
    pool.trained.clear()
    run = made(**asked, checkpoints=3)
    cells = sorted((run / "cells").glob("*/rate-*"))
    assert len(cells) == 8 and {ModelFolder(cell).stopped().step for cell in cells} == {2}
    ledger = pd.read_csv(run / "budget.csv")
    assert set(ledger["kept_step"]) == {2} and set(ledger["tokens"]) == {1}
    boards = [{row["method"]: row for row in read_rows(folder / "leaderboard.csv")} for folder in (run, end)]
    row, other = (board["lora"] for board in boards)
    assert (row["tuning_trials"], other["tuning_trials"]) == (6, 2)  # rates, each with three checkpoints
    assert row["refusal_rate"] == other["refusal_rate"]  # the best checkpoints here answer as all cells do at their end
    assert json.loads((run / "run.json").read_text())["budget"] == "100000 tokens, 2 rates, 2 seeds, 3 checkpoints"
    kept = {path.relative_to(run).parts[3:] for path in run.rglob("adapter.bin")}
    assert kept == {("checkpoint", "adapter.bin")}
    assert len(list(run.glob("cells/*/*/step-[13]/completions/validation/bad.jsonl"))) == 16  # nothing judged is lost

    before = files(run)
    pool.trained.clear()
    (cells[0] / "completions").rename(cells[0] / "step-2/completions")  # as if killed while these moved
    assert made(**asked, checkpoints=3) == run and files(run) == before and not pool.trained
    new = made(add=("full",), against=run, out=Path("new"))
    assert all("/full/" in folder for folder in pool.trained) and len(pool.trained) == 4
    pool.trained.clear()
    assert files(new) == files(
        made(**asked | {"methods": ("sails", "lora", "full"), "checkpoints": 3}, out=Path("all"))
    )


def test_checkpoints_without_a_score_are_not_kept(tmp_path: Path) -> None:
    for scores, best in (({1: nan, 2: 0.1, 3: nan}, 2), ({1: 0.3, 2: 0.5, 3: 0.5}, 2), ({4: nan, 8: nan}, 4)):
        folder = ModelFolder(tmp_path)
        folder.stop(scores)
        told = folder.stopped()
        assert told.step == best
        assert told.alignment_score == {step: None if isnan(score) else score for step, score in scores.items()}


# --- cells of an earlier run -------------------------------------------------------------------------------------


@pytest.fixture
def old(asked: dict[str, Any], pool: Canned) -> Path:
    """A finished run of sails and lora."""
    run = made(**asked, out=Path("old"))
    pool.trained.clear()
    return run


def added(**change: Any) -> Path:
    return made(**{"add": ("full",), "against": Path("old"), "out": Path("new")} | change)


def test_what_is_the_same_is_reused_and_the_rest_is_trained(old: Path, asked: dict[str, Any], pool: Canned) -> None:
    new = added(keep="all")
    assert len(pool.trained) == 4 and all("/full/" in folder for folder in pool.trained)
    told = json.loads((new / "reused.json").read_text())
    assert len(told["cells"]) == 8 and told["run"] == json.loads((old / "run.json").read_text())["run"]
    for cell in told["cells"]:
        assert (new / cell / "train.json").samefile(old / cell / "train.json")
    (answers,) = (new / told["cells"][0]).glob("completions/validation/bad.jsonl")
    assert answers.stat().st_mode & 0o777 == 0o600
    pool.trained.clear()
    fresh = made(**asked | {"methods": ("sails", "lora", "full")}, out=Path("fresh"))
    assert files(new) == files(fresh)  # to the byte what it would be without the earlier run
    pool.trained.clear()
    before = files(new)
    assert files(added(keep="all")) == before and not pool.trained
    assert json.loads((new / "reused.json").read_text()) == told
    config = yaml.safe_load((new / "config.yaml").read_text())
    shutil.rmtree(old)
    assert made(**config) == new and files(new) == before  # it needs the earlier run no more


def test_a_finished_model_is_added_without_training(old: Path, pool: Canned) -> None:
    Path("rlhf").mkdir()
    Path("rlhf/model.safetensors").write_bytes(b"weights")
    new = added(add=(), reference=("rlhf",))
    assert not pool.trained and len(RunFolder(new).reused().cells) == 8
    assert "rlhf" in {row["method"] for row in read_rows(new / "leaderboard.csv")}
    newer = added(against=new, out=Path("newer"))
    assert len(pool.trained) == 4 and all("/full/" in folder for folder in pool.trained)
    answers = "cells/rlhf/completions/test/bad.jsonl"
    assert (newer / answers).samefile(new / answers)  # the reference is asked for no more, and kept
    Path("rlhf/model.safetensors").write_bytes(b"other weights")
    pool.trained.clear()
    newest = added(against=new, out=Path("newest"))
    assert not (newest / answers).samefile(new / answers)


def test_a_file_system_without_links_gets_copies(old: Path, pool: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refused)
    new = added()
    assert len(pool.trained) == 4
    (answers, *_) = new.glob("cells/lora/*/completions/validation/bad.jsonl")
    assert answers.stat().st_mode & 0o777 == 0o600 and answers.stat().st_nlink == 1
    assert not list(new.rglob("*.partial"))


@pytest.mark.parametrize("fault", ["train.json", "completions/validation/bad.jsonl", "verdicts", "more"])
def test_a_cell_that_was_changed_is_trained_anew(
    old: Path, pool: Canned, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    cell = sorted(old.glob("cells/lora/*"))[0]
    if fault == "verdicts":
        shutil.rmtree(cell / fault)
    elif fault == "more":
        (cell / "completions/validation/more.jsonl").write_text("")
    else:
        (cell / fault).write_text((cell / fault).read_text().replace("1", "2", 1))
    new = added()
    assert [Path(folder).name for folder in pool.trained if "/lora/" in folder] == [cell.name]
    assert f"{cell}: changed or incomplete, so not reused" in caplog.text
    assert len(RunFolder(new).reused().cells) == 7


def test_a_kill_while_cells_are_taken_over_is_made_up_for(
    old: Path, pool: Canned, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked: list[Path] = []

    def killed(source: Path, target: Path) -> None:
        if len(linked) == 12:  # in the middle of a cell
            raise KeyboardInterrupt
        linked.append(target)
        shutil.copy2(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "link", killed)
        added()
    new = added()
    assert len(pool.trained) == 4 and len(RunFolder(new).reused().cells) == 8


def test_other_data_and_other_settings_are_trained_anew(
    old: Path, pool: Canned, caplog: pytest.LogCaptureFixture
) -> None:
    Path("train.jsonl").write_text(Path("train.jsonl").read_text().replace("p1", "p9"))
    added()
    assert len(pool.trained) == 12
    assert "lora: trained again, since train changed since old" in caplog.text


def test_another_environment_is_trained_anew(old: Path, pool: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sails_eval.plan.prepare.environment", lambda: {"torch": "another"})
    added()
    assert len(pool.trained) == 12


def test_another_task_is_answered_by_the_kept_checkpoints_only(old: Path, pool: Canned) -> None:
    text = Path("tasks/good.yaml").read_text()
    Path("tasks/good.yaml").write_text(text.replace("doc_to_text: prompt", "doc_to_text: other"))
    new = added()
    kept = {path.parent.name for path in old.glob("cells/lora/*/checkpoint")}
    retrained = {Path(folder).name for folder in pool.trained if "/lora/" in folder}
    assert len(kept) == len(retrained) == 2 and not kept & retrained
    for name in kept:
        assert (new / "cells/lora" / name / "completions/test/bad.jsonl").stat().st_nlink == 2
        assert (new / "cells/lora" / name / "completions/test/good.jsonl").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seeds": 3}, "--seeds 3 differs from old, which has 2; leave out --seeds"),
        ({"judge": "testbed"}, "--judge testbed differs from old, which has none"),
        ({"methods": ("full",)}, "--methods full differs from old, which has sails,lora"),
        ({"add": ("lora",)}, "--add lora: already in old; leave it out"),
        ({"add": ()}, r"--add METHOD .* and --against RUN must be given together"),
        ({"against": None}, r"--add METHOD .* and --against RUN must be given together"),
        ({"against": Path("a")}, "--against a: not a run folder"),
        ({"out": Path("old")}, "--out old: this is the folder of --against"),
        ({"protocol": "confirm"}, "--protocol confirm fixes all rows before the test"),
    ],
)
def test_what_contradicts_the_earlier_run_is_an_error(
    old: Path, change: dict[str, Any], complaint: str, pool: Canned
) -> None:
    with pytest.raises(UserError, match=complaint):
        added(**change)
    assert not Path("new").exists()


def test_an_unfinished_or_altered_run_is_refused(old: Path, pool: Canned) -> None:
    (old / "cells.json").rename(old / "elsewhere")
    with pytest.raises(UserError, match="--against old: not finished"):
        added()
    (old / "elsewhere").rename(old / "cells.json")
    text = (old / "run.json").read_text()
    (old / "run.json").write_text(text.replace('"seeds": 2', '"seeds": 3'))
    with pytest.raises(UserError, match=r"old/run\.json: changed"):
        added()


def test_parts_are_taken_over_part_by_part(asked: dict[str, Any], pool: Canned) -> None:
    made(**asked | {"examples": (4, 2), "learning_rates": 1, "out": Path("old")})
    pool.trained.clear()
    new = added()
    assert len(pool.trained) == 4 and all("/full/" in folder for folder in pool.trained)
    assert set(pd.read_csv(new / "leaderboard.csv")["method"]) == {"base", "sails", "lora", "full"}


def test_a_finished_run_is_not_made_again(asked: dict[str, Any], pool: Canned) -> None:
    run = made(**asked)
    before, at_work = files(run), pool.checked
    pool.trained.clear()
    assert made(**asked) == run and made(**asked, jobs=3) == run
    assert pool.checked == at_work and files(run) == before


@pytest.mark.parametrize(
    "fault",
    [
        "results.csv",
        "leaderboard.md",
        "completions/test/bad.jsonl",
        "train.json",
        "adapter.bin",
        "gone",
        "data",
        "keep",
    ],
)
def test_a_finished_run_in_which_anything_changed_is_gone_through_again(
    fault: str, asked: dict[str, Any], pool: Canned
) -> None:
    run = made(**asked)
    before, at_work = files(run), pool.checked
    pool.trained.clear()
    if fault == "gone":
        (run / "leaderboard.csv").unlink()
    elif fault == "data":
        Path("sae/config.json").write_text("other")  # another run, whose folder is another, too
    elif fault != "keep":
        file = next(path for path in sorted(run.rglob("*")) if str(path).endswith(fault))
        if "completions" in fault:
            file.unlink()
        else:
            file.write_bytes(file.read_bytes() + b" ")
    again = made(**asked, **({"keep": "all"} if fault == "keep" else {}))
    assert pool.checked == at_work + 1
    assert (again == run) == (fault != "data")
    assert files(run) == before


@pytest.mark.slow
def test_of_several_parts_each_is_looked_at(asked: dict[str, Any], pool: Canned) -> None:
    given = {**asked, "pair": "a.yaml,b.yaml", "examples": (4, 6)}
    run = made(**given)
    before, at_work = files(run), pool.checked
    pool.trained.clear()
    assert made(**given) == run and pool.checked == at_work
    (run / "b/examples-4/results.csv").write_text("")
    made(**given)
    pool.trained.clear()
    assert pool.checked == at_work + 4 and files(run) == before
    (run / "examples-4/leaderboard.md").write_text("")
    made(**given)
    assert pool.checked == at_work + 8 and files(run) == before
