"""A run folder that version 0.1.0 wrote is still read by everything that reads run folders."""

import csv
import shutil
from dataclasses import astuple
from pathlib import Path

import pytest

from sails_eval.analyses.durability.report import BEFORE, METRICS, Decay, table
from sails_eval.boards.rate_choice import Choice
from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.run.folder.records import Choices
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import find_tasks


@pytest.fixture(autouse=True)
def there(old_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old_run)


def test_its_records_are_read() -> None:
    run = RunFolder(Path("run"))
    described = run.description()
    assert (described.version, described.commit, described.schema_number) == ("0.1.0", None, 1)
    assert set(described.identity.recipes) == {"sails", "lora"}
    assert run.subspace_report("sails").saes == ["sae"] and "1" in run.subspace_report("sails").found
    assert len(run.seal().hashes) == 2 * 4 + 3
    choices = run.choices(find_tasks())  # not on file then
    assert choices["base"].learning_rate is None and choices["lora"].learning_rate == 0.0001
    assert run.model("lora", 0, 0.0001).record().steps > 0


def test_its_leaderboard_is_shown_checked_and_published(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main("leaderboard show run".split()) == 0
    told = capsys.readouterr().out
    assert "lora" in told and "! Made before refusals were counted (schema 2)" in told
    assert main("leaderboard check run".split()) == 0
    board = tmp_path / "board.csv"
    assert main(["leaderboard", "publish", "run", "--board", str(board), "--exploratory"]) == 0
    with board.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"base", "lora", "sails"}
    assert {row["version"] for row in rows} == {"0.1.0"}


def test_its_refusals_are_counted_from_its_verdicts(caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(Path("run"))
    results = run.results()
    assert "has no refusal rates (older version); they are counted now from its verdicts" in caplog.text
    refused = {(*astuple(row)[:6],): row for row in results if row.metric == "refusal_rate"}
    safe = {(*astuple(row)[:6],): row for row in results if row.metric == "safety_rate"}
    assert refused.keys() == safe.keys() and all(refused[key].value <= safe[key].value for key in safe)
    judge = run.description().identity.judge
    summed = [row for row in refused.values() if (row.split, row.category) == ("test", "all")]
    assert {row.method for row in summed} == {"base", "lora", "sails"}
    for row in summed:
        verdicts = run.model(row.method, row.seed, row.learning_rate).verdicts("test", row.task, judge)
        assert row.value == pytest.approx(sum(one.label == "refusal" for one in verdicts) / len(verdicts), abs=1e-6)


def test_without_its_verdicts_nobody_counts_its_refusals(tmp_path: Path) -> None:
    shutil.copytree("run", tmp_path / "run")
    for folder in (tmp_path / "run" / "cells").glob("**/verdicts"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match=r"verdicts/.*\.jsonl: missing; give the run's command again"):
        RunFolder(tmp_path / "run").results()
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(UserError, match=r"results\.csv: has no refusal rates .* without run\.json"):
        RunFolder(tmp_path / "run").results()


def test_what_its_durability_was_is_shown(tmp_path: Path) -> None:
    rows = [Decay("lora", seed, 0.1, *BEFORE, metric, 0.5) for seed in (0, 1) for metric in METRICS]
    lines = table([row for row in rows if row.metric != "refusal_rate"]).splitlines()
    assert "refusal" not in lines[0] and "safety" in lines[0] and "refusal" in table(rows).splitlines()[0]


def test_its_answers_are_audited(tmp_path: Path) -> None:
    sample = tmp_path / "sample.csv"
    assert main(["judge", "audit", "export", "run", "--out", str(sample)]) == 0
    with sample.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == {"harmful", "safe"}
    with sample.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": "compliance"} for row in rows)
    assert main(["judge", "audit", "import", "run", str(sample)]) == 0
    with Path("run/audit.csv").open() as file:
        found = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    assert found["lora", "safety_rate"]["raw"] and found["lora", "refusal_rate"]["corrected"] == "0.000000"
    assert found["lora", "alignment_score"]["raw"] == ""  # its board's is made of safety, and does not compare


@pytest.mark.slow
@pytest.mark.parametrize("command", ["forgetting run -q", "durability run --attack merge,harmful:4 --methods lora -q"])
def test_its_models_are_measured(command: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(command.split()) == 0
    table = Path("run") / f"{command.split()[0]}.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} >= {"base", "lora"}
    assert {row["seed"] for row in rows} >= {"0", "1"}
    assert "made with sails-eval 0.1.0" in caplog.text


@pytest.mark.parametrize("rate", [None, 0.5])
def test_a_choice_that_was_not_trained_is_refused(rate: float | None, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(Path("run"))
    choices = {"sails": Choice("sails", 0.0001), **({"lora": Choice("lora", rate)} if rate else {})}
    Choices(choices=choices).write(run.chosen.path)
    try:
        assert main("forgetting run --methods lora -q".split()) == 2
    finally:
        run.chosen.path.unlink()
    assert "choices.json: no learning rate at which 'lora' was trained" in capsys.readouterr().err


def test_another_model_is_refused(old_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = old_run / "model" / "generation_config.json"
    before = config.read_text()
    config.write_text("{}")
    try:
        assert main("forgetting run -q".split()) == 2
    finally:
        config.write_text(before)
    assert "model.weights" in capsys.readouterr().err
