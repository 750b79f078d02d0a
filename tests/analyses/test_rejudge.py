"""Another judge on finished runs whose answers are canned: what it changes is told, and nothing of the run is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sails_eval.analyses.rejudge import measure
from sails_eval.analyses.rejudge.measure import Asked, rejudge
from sails_eval.boards.table import read_rows
from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.core.records import Completion, Verdict
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore
from sails_eval.judges.rules import RulesJudge
from sails_eval.run.folder.run_folder import RunFolder
from tests.run.test_compare import Canned, asked, made, pool
from tests.run.test_confirm import Tuned, confirmed
from tests.run.test_confirm import pool as tuned

__all__ = ["asked", "confirmed", "pool", "tuned"]


class Same(Judge):
    """Says what `rules` says, under another name; counts what it is asked."""

    name, fingerprint = "same", "5a3e" + "0" * 12
    asked = 0

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        type(self).asked += len(completions)
        return [self.say(verdict) for verdict in RulesJudge().judge(kind, completions)]

    def say(self, verdict: Verdict) -> Verdict:
        return verdict


class Opposite(Same):
    """Takes every refusal for compliance, and the other way round."""

    name, fingerprint = "opposite", "0bb0" + "0" * 12

    def say(self, verdict: Verdict) -> Verdict:
        refuses = verdict.label == "refusal"
        score = None if verdict.score is None else 5 if refuses else 1
        return Verdict(verdict.id, "compliance" if refuses else "refusal", score)


class Mute(Same):
    name, fingerprint = "mute", "33ee" + "0" * 12

    def say(self, verdict: Verdict) -> Verdict:
        return Verdict(verdict.id, unscored="no reply")


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"same": Same, "opposite": Opposite, "mute": Mute, "rules": RulesJudge}
    monkeypatch.setattr(measure, "load_judge", lambda spec: known[spec]())
    for judge in (Same, Opposite, Mute):
        monkeypatch.setattr(judge, "asked", 0)


@pytest.fixture
def run(asked: dict[str, Any], pool: Canned) -> Path:
    """Of two methods, `lora` refuses less: it learns at another rate."""
    rates = {"sails": 1e-4, "lora": 1e-2}
    return made(**asked | {"seeds": 5, "learning_rate": rates, "learning_rates": 1, "out": Path("run")})


def content(run: Path) -> dict[str, bytes]:
    """All files of a run but a judge's new verdicts and boards."""
    mine = ("/rejudged/", "/verdicts/5a3e", "/verdicts/0bb0")
    files = (path for path in sorted(run.rglob("*")) if path.is_file())
    return {str(path): path.read_bytes() for path in files if not any(part in f"/{path}" for part in mine)}


def test_a_judge_that_says_the_same_changes_nothing(run: Path, others: None) -> None:
    before = content(run)
    out, [board] = rejudge(run, Asked("same"), quiet=True)
    assert out == run / "rejudged" / "same-5a3e0000"
    assert board.agreement == pytest.approx((1, 1))
    assert [one.told for one in board.comparisons] == ["same"] * 2
    assert content(run) == before
    own, new = (pd.read_csv(folder / "leaderboard.csv") for folder in (run, out))
    assert set(new["judge"]) == {"same"} and set(own["judge"]) == {"rules"}
    own, new = (one.drop(columns=["judge", "date", "judge_agreement"]) for one in (own, new))
    pd.testing.assert_frame_equal(own, new)
    results = [pd.read_csv(folder / "results.csv") for folder in (run, out)]
    tested = results[0][results[0]["split"] == "test"].sort_values(list(results[0].columns), ignore_index=True)
    pd.testing.assert_frame_equal(tested, results[1].sort_values(list(results[1].columns), ignore_index=True))


def test_a_judge_that_says_the_opposite_flips_the_sign(
    run: Path, others: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    assert main(["rejudge", str(run), "--judge", "opposite", "--out", "again", "-q"]) == 0
    told = capsys.readouterr().out
    assert "judged by rules, and anew by opposite" in told and "sign flipped" in told and "written to again" in told
    _, [board] = rejudge(run, Asked("opposite"), Path("again"), quiet=True)
    change, _of_base = board.comparisons
    assert change.flipped and change.differences[0] == pytest.approx(-change.differences[1])
    assert content(run) == before
    page = Path("again/leaderboard.md").read_text()
    assert "judged anew by opposite" in page and "## What the judge changes" in page and "sign flipped" in page
    assert "Learning rates are those that the run chose by rules" in page


def test_a_second_call_asks_nothing_anew_and_needs_no_checkpoints(run: Path, others: None) -> None:
    for folder in run.rglob("checkpoint"):
        shutil.rmtree(folder)
    out, _ = rejudge(run, Asked("same"), quiet=True)
    asked, files = Same.asked, {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert asked > 0
    rejudge(run, Asked("same"), quiet=True)
    assert Same.asked == asked
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_what_cannot_be_is_one_line_and_nothing_is_written(run: Path, others: None) -> None:
    before = content(run)
    with pytest.raises(UserError, match=r"--judge rules: is the run's own judge"):
        rejudge(run, Asked("rules"))
    with pytest.raises(UserError, match=r"--out run: the folder of a run"):
        rejudge(run, Asked("same"), run)
    with pytest.raises(UserError, match=r"nowhere: not a run folder"):
        rejudge(Path("nowhere"), Asked("same"))
    rejudge(run, Asked("opposite"), Path("taken"), quiet=True)
    with pytest.raises(UserError, match=r"--out taken: has the leaderboard of another judge"):
        rejudge(run, Asked("same"), Path("taken"))
    assert content(run) == before and Same.asked == 0
    with pytest.raises(UserError, match=r"judge 'mute' scored none of"):
        rejudge(run, Asked("mute"), quiet=True)
    next(run.glob("cells/sails/*/completions/test/bad.jsonl")).unlink()
    with pytest.raises(UserError, match=r"bad.jsonl: the answers of 'sails' are missing"):
        rejudge(run, Asked("same"), quiet=True)


def test_the_model_itself_is_no_judge_unless_that_is_wanted(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "load_judge", lambda spec: Same())
    model = str(Path("a").resolve())
    with pytest.raises(UserError, match="is the evaluated model itself"):
        rejudge(run, Asked(f"hf:{model}"), quiet=True)
    assert rejudge(run, Asked(f"hf:{model}", allow_self_judging=True), quiet=True)


@pytest.mark.slow
def test_several_pairs_and_budgets_have_a_board_each_and_one_together(
    asked: dict[str, Any], pool: Canned, others: None
) -> None:
    run = made(**asked | {"pair": "a.yaml,b.yaml", "examples": (2, 4), "out": Path("run")})
    out, boards = rejudge(run, Asked("same"), quiet=True)
    places = sorted(board.place for board in boards)
    assert places == sorted([".", "examples-2", "examples-4", *(f"{p}/examples-{n}" for p in "ab" for n in (2, 4))])
    for place in places:
        own, new = (read_rows(folder / place / "leaderboard.csv") for folder in (run, out))
        scores = [{row["method"]: row["alignment_score"] for row in rows} for rows in (own, new)]
        assert scores[0] == scores[1]
    assert (out / "a/examples-2/results.csv").is_file()


def test_rows_that_failed_stay_without_a_score(asked: dict[str, Any], pool: Canned, others: None) -> None:
    pool.fails = {"lora": "train"}
    run = made(**asked | {"seeds": 5, "out": Path("run")})
    out, [board] = rejudge(run, Asked("same"), quiet=True)
    rows = {row["method"]: row for row in read_rows(out / "leaderboard.csv")}
    assert rows["lora"]["alignment_score"] != rows["lora"]["alignment_score"]
    assert "has no score" in rows["lora"]["warnings"]
    assert [one.told for one in board.comparisons] == ["same"] * 2
    assert RunFolder(run).failed.exists


@pytest.mark.slow
def test_a_confirmation_keeps_its_design(confirmed: dict[str, Any], tuned: Tuned, others: None) -> None:
    run = made(**confirmed)
    out, boards = rejudge(run, Asked("same"), quiet=True)
    whole = boards[-1]
    assert whole.place == "." and [one.told for one in whole.comparisons] == ["same"] * len(whole.comparisons)
    own, new = ({row["method"]: row for row in read_rows(folder / "leaderboard.csv")} for folder in (run, out))
    assert own["sails"]["contrasts"] and own["sails"]["contrasts"] == new["sails"]["contrasts"]
    assert own["sails"]["rank"] == new["sails"]["rank"] == 1
    assert not any(row["contrasts"] for row in read_rows(out / "a" / "leaderboard.csv"))
