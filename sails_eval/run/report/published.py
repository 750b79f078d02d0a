"""What of a run goes onto a board, and what of its texts may go with it."""

import shutil
from pathlib import Path
from typing import Any

from sails_eval.boards.publish import check, protocol_file
from sails_eval.boards.table import EXPLORATORY, PROVENANCE, read_rows
from sails_eval.core.errors import UserError
from sails_eval.run.folder.reuse import check_untouched
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import resolve_tasks
from sails_eval.tasks.sharing import check_redistribution


def published_rows(run: RunFolder) -> list[dict[str, Any]]:
    """The run's leaderboard rows, with the provenance that its run.json states.

    Raises UserError if the run is incomplete or fails its own check.
    """
    if problems := check(run.leaderboard):
        raise UserError(f"{run.path}: cannot be published: {problems[0]}")
    described, rows = run.description(), read_rows(run.leaderboard)
    if described.quick:
        raise UserError(
            f"{run.path}: made with --quick, a smoke test with 2 learning rates and 2 seeds that cannot show which "
            "method is better; run it without --quick and publish that run"
        )
    if {row["run"] for row in rows} != {described.run}:
        raise UserError(
            f"{run.description_file}: describes run '{described.run}', but leaderboard.csv is from another run; "
            "restore both files"
        )
    for fingerprint in {row["protocol"] for row in rows} - {EXPLORATORY}:
        check_untouched(run)
        if not run.protocol.exists or run.protocol().fingerprint != fingerprint:
            raise UserError(f"{run.protocol.path}: not the protocol named in leaderboard.csv; restore both files")
    return [row | {column: getattr(described, column) for column in PROVENANCE} for row in rows]


def copy_protocol(run: RunFolder, board: Path) -> None:
    """Lay the protocol of a confirmation beside the board that it is published on."""
    if run.protocol.exists:
        shutil.copyfile(run.protocol.path, protocol_file(board, run.protocol().fingerprint))


def copy_completions(run: RunFolder, folder: Path, include_path: tuple[Path, ...] = ()) -> int:
    """Copy a run's test completions into a folder; how many files. Those of attacked models never leave the run.

    Raises:
        UserError: a task is not to be found, or its card forbids redistribution; nothing is copied then.
    """
    files = run.test_answers()
    check_redistribution(resolve_tasks(sorted({file.stem for file in files}), include_path))
    for file in files:
        copy = folder / run.relative(file)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return len(files)
