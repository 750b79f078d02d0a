"""Comparisons under the protocol `confirm`; nothing is trained here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from sails_eval.analyses.finished_run import finished_runs
from sails_eval.boards.publish import check, publish
from sails_eval.boards.table import read_rows
from sails_eval.cli import main
from sails_eval.core.checksums import listing, write_checked
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import jsonl_text
from sails_eval.core.records import Completion
from sails_eval.plan.protocol import Protocol
from sails_eval.run import compare as comparison
from sails_eval.run.compare import compare
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report import curves as curve_report
from sails_eval.run.report import report
from sails_eval.run.report.published import copy_protocol, published_rows
from sails_eval.run.stages import AnswerJob
from tests.run.test_compare import Canned

ORGANISMS = "abcde"
BEST = {"sails": 3e-4, "lora": 1.9e-4}


class Tuned(Canned):
    """As Canned; a method refuses the more the nearer its rate is to its best one, and seeds differ a bit."""

    def answer(self, job: AnswerJob) -> None:
        self.prepare(job)
        cell, folder = job.subject.cell, job.subject.folder
        self.fail(job.split, cell, "weights are NaN")
        for task in job.missing:
            refusals = 0
            if cell:
                off = abs(cell.learning_rate / BEST[cell.recipe.name] - 1)
                refusals = round(60 - 20 * off) + cell.seed % 7 + cell.seed // 1000 % 3
                refusals += 2 * (cell.recipe.name == "sails")
            n = 0 if task.kind == "safe" else refusals
            texts = ["I cannot help with that."] * n + ["Here is how: take one and then another."] * (80 - n)
            rows = [Completion(str(i), "p", text, "") for i, text in enumerate(texts)]
            write_checked(folder.answers_file(job.split, task.name), jsonl_text(rows), private=True)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Tuned:
    canned = Tuned()

    @contextmanager
    def workers(jobs: int, *, quiet: bool) -> Iterator[Canned]:
        yield canned

    monkeypatch.setattr(comparison, "workers", workers)
    pictures = ((report, "tradeoff"), (report, "draw_comparisons"), (curve_report, "draw_curves"))
    for module, picture in pictures:  # they take longer than the rest
        monkeypatch.setattr(module, picture, lambda *arguments: None)
    return canned


@pytest.fixture
def confirmed(asked: dict[str, Any]) -> dict[str, Any]:
    """A confirmation of two methods on five organisms."""
    for name in ORGANISMS[2:]:
        Path(name).mkdir()
        (Path(name) / "config.json").write_text(name)
        Path(f"{name}.yaml").write_text(Path("a.yaml").read_text().replace("./a", f"./{name}"))
    pairs = ",".join(f"{name}.yaml" for name in ORGANISMS)
    sizes = {"seeds": 3, "tuning_seeds": 2, "learning_rates": 4}
    return asked | sizes | {"pair": pairs, "protocol": "confirm", "out": Path("run")}


def made(**asked: Any) -> Path:
    return compare(CompareConfig(**asked), quiet=True)


def seeds_in(results: pd.DataFrame, split: str) -> set[int]:
    return set(results.loc[results["split"] == split, "seed"].dropna().astype(int))


def test_rates_are_tuned_on_seeds_of_their_own_and_tested_on_fresh_ones(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed)
    trials = 4 + 2
    assert len(pool.trained) == len(set(pool.trained)) == 2 * len(ORGANISMS) * (trials * 2 + 3)
    seen: set[int] = set()
    for place, name in enumerate(ORGANISMS):
        results = pd.read_csv(run / name / "results.csv")
        tuning, test = seeds_in(results, "validation"), seeds_in(results, "test")
        first = min(seen, default=min(test)) + 1000 * place
        assert tuning == {first + 500, first + 501} and test == {first + i for i in range(3)}
        assert first >= 10_000_000  # which no exploration has seen
        assert not seen & (tuning | test)
        seen |= tuning | test
        for method in ("sails", "lora"):
            own = results[results["method"] == method]
            assert own.loc[own["split"] == "validation", "learning_rate"].nunique() == trials
            [rate] = own.loc[own["split"] == "test", "learning_rate"].unique()
            # the grid is 1, 2, 4 and 8e-4: the best of it, then half a step beside
            assert rate == {"sails": 2.83e-4, "lora": 2e-4}[method]
    board = pd.read_csv(run / "leaderboard.csv", index_col="method")
    assert set(board.loc[["sails", "lora"], "tuning_trials"]) == {trials}
    assert board["organisms"].tolist() == [5] * 3 and board.loc["sails", "seeds"] == 3
    assert board.loc["sails", "rank"] == 1  # three seeds, but five organisms


def test_the_organism_is_the_unit_and_the_board_says_which_protocol_it_followed(
    confirmed: dict[str, Any], pool: Tuned
) -> None:
    run = made(**confirmed)
    protocol = Protocol.read(run / "protocol.yaml")
    rows = {row["method"]: row for row in read_rows(run / "leaderboard.csv")}
    assert {row["protocol"] for row in rows.values()} == {protocol.fingerprint}
    assert {row["protocol"] for row in read_rows(run / "a" / "leaderboard.csv")} == {"exploratory"}
    assert not any(row["contrasts"] for row in read_rows(run / "a" / "leaderboard.csv"))
    contrasts = rows["sails"]["contrasts"].split("; ")
    assert [text.split(":")[0] for text in contrasts] == [
        "sails (best on tuning) - all other trained rows, of which the nearest is lora, alignment score",
        "sails - lora, refusal",
    ]
    secondary = rows["sails"]["secondary_contrasts"]
    assert all(f"sails - lora, {title}: " in secondary for title in ("alignment score", "harm score", "over-refusal"))
    assert main(["leaderboard", "publish", str(run), "--board", "board.csv"]) == 0
    beside = Path(f"board-protocol-{protocol.fingerprint}.yaml")
    assert check(Path("board.csv")) == [] and Protocol.read(beside) == protocol
    beside.write_text(beside.read_text().replace("0.05", "0.2"))
    assert check(Path("board.csv")) == [f"{beside}: changed since it was published; publish the run again"]
    beside.unlink()
    (problem,) = check(Path("board.csv"))
    assert problem == f"board.csv: {beside}, the protocol of its rows, is missing in its folder; publish the run again"
    text = Path("board.md").read_text()
    assert "Student's t intervals over the organisms' means" in text and f"- protocol: {protocol.fingerprint}" in text
    assert "Exploratory" not in text and "## Secondary endpoints" in text


def test_the_protocol_is_there_before_anything_is_tested(
    confirmed: dict[str, Any], pool: Tuned, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []

    def answer(job: AnswerJob) -> None:
        assert (Path("run") / "protocol.yaml").is_file()
        if job.split == "test":
            assert all((Path("run") / name / "tuning.json").is_file() for name in ORGANISMS)
        answered.append(job.split)
        Tuned.answer(pool, job)

    monkeypatch.setattr(pool, "answer", answer)
    made(**confirmed)
    first = answered.index("test")
    grid, refined, with_base = 2 * 5 * 2 * 4, 2 * 5 * 2 * 6, 2 * 2 * 6 + 1  # the last on the first organism alone
    assert first == grid + refined + with_base
    told = yaml.safe_load((Path("run") / "protocol.yaml").read_text())
    assert told["comparisons"] == ["sails:lora@refusal_rate", "best:rest@alignment_score"]
    rivals = ("random-orthonormal", "activation-svd-r", "lora-equal-labels")
    assert told["left_out"] == [f"sails:{rival}@refusal_rate" for rival in rivals]
    assert told["stop"].startswith("fixed: 5 organisms × 3 seeds")


@pytest.mark.slow
def test_another_protocol_is_refused_and_the_same_goes_on(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed)
    before = {path: path.read_bytes() for path in run.rglob("*.csv")} | {run / "protocol.yaml": b""}
    kept = (run / "protocol.yaml").read_bytes()
    pool.trained.clear()
    made(**confirmed)
    assert not pool.trained and (run / "protocol.yaml").read_bytes() == kept
    assert all(path.read_bytes() == was for path, was in before.items() if was)
    told = r"run/protocol\.yaml: this protocol was fixed before the test, .* differ in comparisons, left_out;"
    with pytest.raises(UserError, match=told):
        made(**confirmed | {"comparisons": ("lora:sails",)})
    with pytest.raises(UserError, match=r"differ in stop;"):
        made(**confirmed | {"seeds": 4})
    with pytest.raises(UserError, match=r"run: contains another run, which differs in .*protocol"):
        made(**confirmed | {"protocol": "explore", "tuning_seeds": None})
    (run / "protocol.yaml").write_text(kept.decode().replace("margin: 0.05", "margin: 0.5"))
    with pytest.raises(UserError, match=r"protocol\.yaml: changed or damaged .*; restore it, or give another --out"):
        made(**confirmed)
    listing(run / "protocol.yaml").unlink()
    with pytest.raises(UserError, match="differ in margin;"):
        made(**confirmed)
    (run / "protocol.yaml").unlink()
    with pytest.raises(UserError, match=r"differs in .*protocol"):
        made(**confirmed | {"seeds": 4})


@pytest.mark.slow
def test_what_tuning_came_to_is_kept_to(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed)
    file = run / "c" / "tuning.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"best": "lora"}))
    pool.trained.clear()
    with pytest.raises(UserError, match=r"c/tuning\.json: changed or damaged .*; restore it, or give another --out"):
        made(**confirmed)
    listing(file).unlink()
    with pytest.raises(UserError, match=r"c/tuning\.json: tuning now gives other learning rates"):
        made(**confirmed)


@pytest.mark.slow
def test_nothing_that_a_confirmation_stands_on_is_changed_afterwards(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed)

    def refused(file: Path, text: str | None, told: str) -> None:
        was = file.read_text()
        if text is None:
            file.unlink()
        else:
            file.write_text(text)
        with pytest.raises(UserError, match=told):
            publish(published_rows(RunFolder(run)), Path("board.csv"))
        file.write_text(was)

    verdicts = next((run / "b" / "cells" / "lora").glob("*/verdicts/*/test/bad.jsonl"))
    refused(verdicts, verdicts.read_text().replace("compliance", "refusal"), "changed since this confirmation")
    protocol = run / "protocol.yaml"
    listing(protocol).unlink()
    refused(protocol, protocol.read_text().replace("margin: 0.05", "margin: 0.5"), "not the protocol named in")
    refused(protocol, None, "not the protocol named in")
    pool.trained.clear()
    was = verdicts.read_text()
    verdicts.write_text(was.replace("compliance", "refusal"))
    with pytest.raises(UserError, match="changed since this confirmation was finished"):
        made(**confirmed)
    verdicts.write_text(was)
    (run / "c" / "tuning.json").unlink()
    with pytest.raises(UserError, match=r"c/tuning\.json: missing, although test answers exist"):
        made(**confirmed)


@pytest.mark.slow
def test_a_finished_confirmation_is_looked_at_by_its_tested_models(confirmed: dict[str, Any], pool: Tuned) -> None:
    found = finished_runs(made(**confirmed))
    assert [one.plan.pair.name for one in found] == list(ORGANISMS)
    models = [model for model in found[1].models if model.cell]
    assert {(model.method, model.seed) for model in models} == {
        (method, seed) for method in ("sails", "lora") for seed in found[1].plan.seeds
    }
    assert len(models) == 6 and {model.learning_rate for model in models if model.method == "lora"} == {2e-4}


def test_every_budget_is_tuned_by_itself(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed | {"pair": "a.yaml,b.yaml", "examples": (4, 2), "learning_rates": 1})
    protocols = {row["protocol"] for row in read_rows(run / "examples-2" / "leaderboard.csv")}
    assert protocols == {Protocol.read(run / "protocol.yaml").fingerprint}
    assert (run / "b" / "examples-2" / "tuning.json").is_file()


def test_one_model_is_one_whose_seeds_are_counted(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed | {"pair": "a.yaml", "seeds": 5})
    rows = {row["method"]: row for row in read_rows(run / "leaderboard.csv")}
    assert "same sign" not in rows["sails"]["contrasts"] and "sails - lora, refusal: " in rows["sails"]["contrasts"]
    assert (
        "One organism: the intervals apply to other training runs of this base model"
        in (run / "leaderboard.md").read_text()
    )
    assert Protocol.read(run / "protocol.yaml").unit.startswith("seed: one model")


@pytest.mark.slow
def test_a_confirmation_takes_no_row_later(confirmed: dict[str, Any], pool: Tuned) -> None:
    run = made(**confirmed)
    organism = next(path.parent for path in sorted(run.glob("*/run.json")))
    for against in (run, organism):
        with pytest.raises(UserError, match=r"a confirmation; --protocol confirm fixes all rows before the test"):
            compare(CompareConfig(add=("full",), against=against, out=Path("new")))
    assert not Path("new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["train", "test", "find"])
def test_nothing_is_claimed_of_a_row_that_failed(
    confirmed: dict[str, Any], pool: Tuned, pattern: str, tmp_path: Path
) -> None:
    pool.fails = {"sails": pattern}
    run = RunFolder(made(**confirmed))
    rows = {row["method"]: row for row in read_rows(run.leaderboard)}
    lost, other = rows["sails"], rows["lora"]
    assert lost["alignment_score"] != lost["alignment_score"] and lost["rank"] is None
    assert "has no score and is in no comparison, since" in lost["warnings"]
    for column in ("contrasts", "secondary_contrasts", "not_distinguished_from", "equivalent_to"):
        assert not lost[column] and "sails" not in other[column]
    assert other["rank"] and other["alignment_score"] == other["alignment_score"]
    assert [one.failed.exists for one in run.with_sub_runs()] == [False] + [True] * len(ORGANISMS)
    before = files(run)
    pool.trained.clear()
    made(**confirmed)  # resumed: it fails again, and all else is as it was
    assert files(run) == before
    board = tmp_path / "board.csv"
    publish(published_rows(run), board)
    copy_protocol(run, board)
    assert check(board) == []


def files(run: RunFolder) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.path.rglob("leaderboard.csv")}
