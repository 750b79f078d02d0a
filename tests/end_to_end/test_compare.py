"""The main job end to end, on a corner of the testbed: whatever the number of workers, and however often killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from sails_eval.boards.leaderboard import choose_rates
from sails_eval.boards.scoring import read_results
from sails_eval.cli import main
from sails_eval.tasks.library import find_tasks

CORNER = (  # no --pair: the embedded one
    "--methods sails,full,prompt --reference testbed-preference --tokens 1200 --seeds 2 "
    "--learning-rates 2 --limit 8 --tasks testbed_harmful_unseen,testbed_safe,testbed_facts -q"
).split()

ANSWERS = "completions/test/testbed_safe.jsonl"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison by one worker."""
    out = tmp_path_factory.mktemp("compare") / "one"
    assert main(["compare", *CORNER, "--jobs", "1", "--out", str(out)]) == 0
    return out


def test_the_run_folder_is_complete(run: Path) -> None:
    files = {path.name for path in run.iterdir()}
    assert files >= {
        "config.yaml", "run.json", "results.csv", "budget.csv", "leaderboard.csv", "leaderboard.md", "tradeoff.png",
        "compare.log",
    }  # fmt: skip
    board = pd.read_csv(run / "leaderboard.csv", index_col="method")
    assert set(board.index) == {"base", "sails", "full", "prompt", "testbed-preference"}


def test_rows_that_nothing_is_trained_for_are_tested_and_judged_alike(run: Path) -> None:
    results, board = pd.read_csv(run / "results.csv"), pd.read_csv(run / "leaderboard.csv", index_col="method")
    for method, model in (("prompt", "testbed"), ("testbed-preference", "testbed + preference")):
        rows = results[results["method"] == method]
        assert set(rows["split"]) == {"test"} and rows["seed"].isna().all()
        assert set(rows["task"]) == set(results.loc[results["method"] == "base", "task"])
        assert (board.loc[method, "model"], board.loc[method, "seeds"]) == (model, 0)
    files = [ANSWERS, ANSWERS.replace("safe", "harmful_unseen")]
    told = {
        "".join((run / "cells" / name / file).read_text() for file in files)
        for name in ("base", "prompt", "testbed-preference")
    }
    assert len(told) == 3  # each is what it says
    safety = board["safety_rate"].astype(float)
    assert safety["testbed-preference"] > safety["base"]


def test_rates_are_judged_on_validation_and_only_contenders_on_the_test(run: Path) -> None:
    results, board = pd.read_csv(run / "results.csv"), pd.read_csv(run / "leaderboard.csv")
    trained = results[results["method"].isin(["sails", "full"])]
    rates = trained.groupby(["split", "method"])["learning_rate"].unique()
    choices = choose_rates(read_results(run / "results.csv"), find_tasks())
    for method in ("sails", "full"):
        assert len(rates["validation", method]) == 2
        assert sorted(rates["test", method]) == sorted(rate for rate in choices[method].contenders if rate)
        assert list(board.loc[board["method"] == method, "learning_rate"]) == [choices[method].learning_rate]


def test_every_method_had_the_same_budget(run: Path) -> None:
    budget = pd.read_csv(run / "budget.csv")
    assert len(budget) == 8  # two methods, two rates, two seeds
    for _, cells in budget.groupby("seed"):
        assert cells[["tokens", "steps", "examples", "unique_examples"]].nunique().max() == 1
    assert (budget["tokens"] >= 1200).all() and (budget["flops"] > 0).all()
    selection = budget.groupby("method")["selection_flops"].min()
    assert selection["sails"] > 0 and selection["full"] == 0


def test_ledger_and_board_say_what_every_row_saw(run: Path) -> None:
    budget = pd.read_csv(run / "budget.csv")
    assert (budget["labelled_examples"] == budget["unique_examples"]).all()  # who contrasts some trains on them, too
    sails, full = (budget[budget["method"] == method] for method in ("sails", "full"))
    assert not full[["rejected_answers", "contrast_examples", "selection_tokens"]].any(axis=None)
    assert (sails["rejected_answers"] == sails["contrast_examples"]).all() and (sails["selection_tokens"] > 0).all()
    assert (sails["contrast_examples"] < sails["labelled_examples"]).all()
    told = pd.read_csv(run / "leaderboard.csv", index_col="method", keep_default_na=False)["warnings"]
    pairs, most = sails["contrast_examples"].max(), sails["selection_tokens"].max()
    assert f"saw {pairs} rejected answers, {pairs} labelled examples ({most} tokens) before" in told["sails"]
    assert "beyond its training sample" not in told["sails"] and "saw " not in told["full"]


def test_trained_answers_differ_from_the_base_and_only_chosen_checkpoints_are_kept(run: Path) -> None:
    base = (run / "cells/base/completions/test/testbed_harmful_unseen.jsonl").read_text()
    answered = list(run.glob("cells/*/*/completions/test/testbed_harmful_unseen.jsonl"))
    assert len(answered) >= 4 and any(path.read_text() != base for path in answered)
    kept = list(run.glob("cells/*/*/checkpoint"))
    choices = choose_rates(read_results(run / "results.csv"), find_tasks())
    of_seeds = [{choices[m].learning_rate, choices[m].rate_of(seed)} for m in ("sails", "full") for seed in (0, 1)]
    assert len(kept) == sum(map(len, of_seeds)) and {p.parent for p in kept} <= {p.parents[2] for p in answered}


def test_completions_are_private(run: Path) -> None:
    modes = {oct(path.stat().st_mode & 0o777) for path in run.glob("cells/**/completions/*/*.jsonl")}
    assert modes == {"0o600"}


@pytest.mark.slow
def test_a_kill_and_workers_do_not_change_a_byte(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    command = [sys.executable, "-m", "sails_eval", "compare", *CORNER, "--jobs", "2", "--out", str(out)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while len(list(out.glob("cells/*/*/train.json"))) < 3 and process.poll() is None:  # of eight cells
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*/train.json")}
    assert before and not (out / "results.csv").exists()
    assert main(["compare", *CORNER, "--jobs", "2", "--out", str(out)]) == 0
    assert (out / "results.csv").read_bytes() == (run / "results.csv").read_bytes()
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())  # nothing was trained twice


def test_another_configuration_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = [*CORNER, "--jobs", "1", "--out", str(run)]
    again[again.index("--limit") + 1] = "9"
    assert main(["compare", *again]) == 2
    assert "contains another run, which differs in limit" in capsys.readouterr().err
