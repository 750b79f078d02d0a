from pathlib import Path

import pandas as pd
import pytest

from sails_eval.boards import paper
from sails_eval.boards.paper import COLUMNS, read_paper
from sails_eval.cli import main
from sails_eval.core.errors import UserError


def test_every_figure_of_the_paper_has_a_source() -> None:
    rows = read_paper()
    assert rows and all(row["source"] and row["method"] and row["metric"] for row in rows)
    assert all(0 <= float(row["value"]) <= 5 for row in rows)


def test_the_papers_figures_stand_beside_the_boards_and_are_marked(
    old_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board = tmp_path / "board.csv"
    assert main(["leaderboard", "publish", str(old_run / "run"), "--board", str(board), "--exploratory"]) == 0
    capsys.readouterr()
    assert main(["leaderboard", "show", str(board)]) == 0
    alone = capsys.readouterr().out
    assert main(["leaderboard", "show", str(board), "--with-paper"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(alone.rstrip("\n")) and "Reported by the SAILS paper" in told
    _, reported = told.split("not measured here")
    (safety,) = (row["safety_rate"] for row in pd.read_csv(board).to_dict("records") if row["method"] == "sails")
    (line,) = (line for line in reported.splitlines() if line.startswith("sails ") and "safety_rate" in line)
    assert "0.996" in line and f"{safety:.2f} [" in line and "on pair" in line
    (line,) = (line for line in reported.splitlines() if "0.131" in line)
    assert "–" in line  # nothing here attacks


def test_a_broken_file_of_the_paper_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "paper.csv").write_text("method,value\nsails,1\n")
    monkeypatch.setattr(paper, "bundled", lambda _: tmp_path)
    with pytest.raises(UserError, match=rf"paper\.csv: expected the columns {', '.join(COLUMNS)}"):
        read_paper()
