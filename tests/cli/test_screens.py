"""What commands print: tables that fit the terminal, data alone for programs, and what runs there are."""

import csv
import io
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from sails_eval.api import load_run
from sails_eval.boards.publish import check
from sails_eval.boards.table import COLUMNS, read_rows
from sails_eval.cli import main
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.run.compare import compare
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.published import published_rows
from tests.run.test_compare import Canned, asked, pool

__all__ = ["asked", "pool"]


def printed(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(command.split()) == 0
    return capsys.readouterr().out


@pytest.fixture
def runs(asked: dict[str, Any], pool: Canned) -> Path:
    """A quick run, one of five seeds, and one that was stopped before its end, in ./runs."""
    quick = {key: value for key, value in asked.items() if key not in ("seeds", "learning_rates")}
    for name, given in (
        ("quick", {**quick, "methods": ("lora", "sails"), "quick": True}),
        ("five", {**asked, "seeds": 5}),
        ("stopped", {**asked, "learning_rates": 1}),
    ):
        compare(CompareConfig(**given, out=Path("runs") / name), quiet=True)
        pool.trained.clear()
    Path("runs/stopped/leaderboard.csv").unlink()
    return Path("runs")


def test_tables_fit_the_terminal_unless_they_are_to_be_wide(
    runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = ("tasks list", "pairs list", "runs list", "leaderboard show runs/five", "leaderboard show runs/quick")
    for width, command in product((80, 120), shown):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = printed(command, capsys).splitlines()
        assert max(map(len, lines)) <= width, command
    monkeypatch.setenv("COLUMNS", "60")
    assert "capability" not in printed("leaderboard show runs/five", capsys).splitlines()[0]
    wide = printed("leaderboard show runs/five --wide", capsys).splitlines()[0]
    assert "harm score" in wide and "capability" in wide and "rate" in wide


def test_data_are_printed_alone(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed("leaderboard show runs/five --json", capsys))
    assert list(rows[0]) == list(COLUMNS)
    known = read_rows(runs / "five/leaderboard.csv")
    assert [row["method"] for row in rows] == [row["method"] for row in known]
    assert rows[0]["refusal_rate"] == known[0]["refusal_rate"] and rows[0]["capability"] is None
    read = list(csv.DictReader(io.StringIO(printed("leaderboard show runs/five --csv", capsys))))
    assert [row["method"] for row in read] == [row["method"] for row in rows] and read[0]["capability"] == ""
    power = "power --difference 0.05 --sd 0.1"
    for command in ("tasks list", "pairs list", "runs list", power, f"{power} --organism-sd 0.1"):
        of_json = json.loads(printed(f"{command} --json", capsys))
        of_csv = list(csv.DictReader(io.StringIO(printed(f"{command} --csv", capsys))))
        assert len(of_json) == len(of_csv) > 1 and list(of_json[0]) == list(of_csv[0])


def test_runs_are_listed_with_what_they_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {Path(row["path"]).name: row for row in json.loads(printed("runs list --json", capsys))}
    assert {name: row["state"] for name, row in found.items()} == {
        "quick": "finished",
        "five": "finished",
        "stopped": "unfinished, 4 cells trained",
    }
    (first,) = [row for row in read_rows(runs / "five/leaderboard.csv") if row["rank"] == 1]
    assert found["five"]["best"].startswith(f"{first['method']} {first['alignment_score']:.2f} [")
    assert found["quick"]["best"] == "a smoke test"
    assert found["five"]["methods"] == ["sails", "lora"] and found["five"]["pair"] == "a"


def test_a_run_is_shown_with_where_its_checkpoints_lie(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("runs show runs/five", capsys)
    rate = RunFolder(runs / "five").chosen().choices["lora"].learning_rate
    (path,) = (runs / "five/cells/lora").glob(f"rate-{rate:g}-seed-0-*/checkpoint")
    assert f"  lora: {path} (other seeds in the same folder: 4)" in text and "state    finished" in text
    assert "not finished; give its command again to resume it" in printed("runs show runs/stopped", capsys)
    assert main(["runs", "show", "runs"]) == 2 and "not a run folder" in capsys.readouterr().err
    assert main(["runs", "list", "nowhere"]) == 2 and "nowhere: no such folder" in capsys.readouterr().err


def test_a_quick_run_says_that_it_is_a_smoke_test(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, page = printed("leaderboard show runs/quick", capsys), (runs / "quick/leaderboard.md").read_text()
    table = text.partition("#  method")[2].partition("\n!")[0]
    assert text.startswith("Smoke test (--quick)") and "**Smoke test (--quick)" in page
    assert [line.split()[1] for line in table.splitlines()[1:]] == ["lora", "sails", "base"]  # as they were asked for
    assert page.index("| lora |") < page.index("| sails |") < page.index("| base |")
    assert "[0." not in table and "[-0." not in table
    assert "Brackets" not in page and "## Comparisons" not in page and "interval" not in text.partition("intervals.")[2]
    rows = read_rows(runs / "quick/leaderboard.csv")
    assert [row["method"] for row in rows] == ["lora", "sails", "base"]
    assert all(math.isnan(row[name]) for row in rows for name in COLUMNS if name.endswith(("_low", "_high")))
    assert not check(runs / "quick/leaderboard.csv")
    found = load_run(runs / "quick")
    assert list(found.leaderboard["method"]) == ["lora", "sails", "base"] and "Smoke test" in found._repr_html_()
    assert not list((runs / "quick").glob("*.png")) and not (runs / "quick/curves.md").exists()
    assert main(["power", "--from", "runs/quick", "--difference", "0.1"]) == 2
    assert "made with --quick, a smoke test" in capsys.readouterr().err
    five = (runs / "five/leaderboard.md").read_text()
    assert "Smoke test" not in five and "Brackets" in five and "## Comparisons" in five


def test_a_quick_run_is_not_published(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", "publish", "runs/quick", "--board", "board.csv", "--exploratory"]) == 2
    assert "made with --quick, a smoke test" in capsys.readouterr().err and not Path("board.csv").exists()
    with pytest.raises(UserError, match="run it without --quick"):
        published_rows(RunFolder(runs / "quick"))
    published_rows(RunFolder(runs / "five"))
