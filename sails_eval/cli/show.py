"""A leaderboard as the terminal has it, with what else was measured of it."""

from pathlib import Path

from sails_eval.boards.page import notes, to_terminal
from sails_eval.boards.paper import beside_paper
from sails_eval.boards.table import make_frame, read_rows
from sails_eval.run.folder.run_folder import RunFolder, board_file


def show(path: Path, *, with_paper: bool = False) -> str:
    """A run folder's leaderboard or a board for the terminal, then what to beware of, what was forgotten if that was
    measured, and the paper's figures.

    Raises UserError if there is none.
    """
    path = board_file(path)
    rows = read_rows(path)
    frame = make_frame(rows, published=bool(rows) and "pair" in rows[0])
    reported = ["", beside_paper(frame)] if with_paper else []
    run = RunFolder(path.parent)
    measured = []
    if path == run.leaderboard:
        from sails_eval.analyses.forgetting.results import shown  # its statistics take a second to import

        measured = ["", text] if (text := shown(run)) else []
    return "\n".join([to_terminal(frame), *(f"! {note}" for note in notes(frame)), *measured, *reported])
