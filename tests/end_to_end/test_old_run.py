"""A run folder that version 0.1.0 wrote is still read by everything that reads run folders."""

import csv
import tarfile
from pathlib import Path

import pytest

from sails_eval.boards.rate_choice import Choice
from sails_eval.cli import main
from sails_eval.run.folder.records import Choices
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import find_tasks

ARCHIVE = Path(__file__).parent / "data" / "run_0.1.0.tar.gz"


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def there(extracted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(extracted)


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
    assert "lora" in capsys.readouterr().out
    assert main("leaderboard check run".split()) == 0
    board = tmp_path / "board.csv"
    assert main(["leaderboard", "publish", "run", "--board", str(board)]) == 0
    with board.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"base", "lora", "sails"}
    assert {row["version"] for row in rows} == {"0.1.0"}


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
    assert Path("run/audit.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["forgetting run -q", "durability run --attack merge,harmful:4 --methods lora -q"])
def test_its_models_are_measured(command: str, caplog: pytest.LogCaptureFixture) -> None:
    assert main(command.split()) == 0
    table = Path("run") / f"{command.split()[0]}.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} >= {"base", "lora"}
    assert {row["seed"] for row in rows} >= {"0", "1"}
    assert "made by sails-eval 0.1.0" in caplog.text


@pytest.mark.parametrize("rate", [None, 0.5])
def test_a_choice_that_was_not_trained_is_refused(rate: float | None, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunFolder(Path("run"))
    choices = {"sails": Choice("sails", 0.0001), **({"lora": Choice("lora", rate)} if rate else {})}
    Choices(choices=choices).write(run.chosen.path)
    try:
        assert main("forgetting run --methods lora -q".split()) == 2
    finally:
        run.chosen.path.unlink()
    assert "choices.json: no rate of 'lora'" in capsys.readouterr().err


def test_another_model_is_refused(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = extracted / "model" / "generation_config.json"
    before = config.read_text()
    config.write_text("{}")
    try:
        assert main("forgetting run -q".split()) == 2
    finally:
        config.write_text(before)
    assert "model.weights" in capsys.readouterr().err
