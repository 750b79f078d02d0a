"""A leaderboard as the terminal has it, with what else was measured of it."""

from pathlib import Path
from typing import Any

from sails_eval.boards.page import SMOKE_TEST, notes, to_terminal
from sails_eval.boards.paper import beside_paper
from sails_eval.boards.table import make_frame, read_rows, rows_of
from sails_eval.core.escape import one_line
from sails_eval.core.tables import wrapped
from sails_eval.run.folder.run_folder import RunFolder, board_file


def read_board(path: Path) -> Any:
    """A run folder's leaderboard or a board as a DataFrame, ranked. Raises UserError if there is none."""
    rows = read_rows(board_file(path))
    return make_frame(rows, published=bool(rows) and "pair" in rows[0])


def records(path: Path) -> list[dict[str, Any]]:
    """Its rows with all columns, as numbers and texts."""
    return rows_of(read_board(path))


def show(path: Path, *, with_paper: bool = False) -> str:
    """A run folder's leaderboard or a board for the terminal, then what to beware of, what was forgotten if that was
    measured, and the paper's figures.

    Raises UserError if there is none.
    """
    frame, file = read_board(path), board_file(path)
    reported = ["", beside_paper(frame)] if with_paper else []
    run, banner, measured = RunFolder(file.parent), [], []
    if file == run.leaderboard:
        from sails_eval.analyses.forgetting.results import shown  # its statistics take a second to import

        measured = ["", text] if (text := shown(run)) else []
        if run.exists and run.description().quick:
            banner = [wrapped(SMOKE_TEST), ""]
    return "\n".join(
        [*banner, to_terminal(frame), *(wrapped(f"! {one_line(note)}") for note in notes(frame)), *measured, *reported]
    )
