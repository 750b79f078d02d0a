"""What runs there are, and what each came to, read from their folders alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sails_eval.boards.table import read_rows
from sails_eval.core.errors import UserError, first_line
from sails_eval.core.tables import Table, interval_text
from sails_eval.run.folder.run_folder import RunFolder

HEADLINE = "alignment_score"

FEW = 3
"""Methods that are named in a list of runs; `runs show` and the data name all."""


@dataclass(frozen=True)
class Overview:
    """A run in a line: `state` is `finished` or says how much is trained, `best` the row of rank 1 with its alignment
    score."""

    path: Path
    date: str
    pair: str
    methods: tuple[str, ...]
    state: str
    best: str


def overview(run: RunFolder) -> Overview:
    """Raises UserError where the folder is no run, or one of its files is broken."""
    described = run.description()
    trained = run.trained_cells()
    finished = run.leaderboard.is_file()
    state = "finished" if finished else f"unfinished, {trained} cells trained"
    methods = described.methods or tuple(described.identity.recipes)
    best = "a smoke test" if described.quick else _best(run) if finished else ""
    return Overview(run.path, described.date, described.pair, methods, state, best)


def _best(run: RunFolder) -> str:
    rows: list[dict[str, Any]] = [row for row in read_rows(run.leaderboard) if row["rank"] == 1]
    told = [f"{row['method']} {interval_text(*(row[HEADLINE + end] for end in ('', '_low', '_high')))}" for row in rows]
    return "; ".join(told) or "not ranked"


def listing(folder: Path) -> Table:
    """The runs in a folder, the latest first. Raises UserError where there is no such folder."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder with your runs (default: ./runs)")
    found = []
    for file in folder.glob("*/run.json"):
        try:
            found.append(overview(RunFolder(file.parent)))
        except UserError as error:  # one broken run hides no other
            found.append(Overview(file.parent, "", "", (), "broken", first_line(error)))
    found.sort(key=lambda one: (one.date, one.path.name), reverse=True)
    rows = [
        (str(one.path), one.date, one.pair, _few(one.methods), one.state.split(",")[0], one.best.split(" [")[0])
        for one in found
    ]
    header = ("run", "date", "pair", "methods", "state", "best")
    records = [{**vars(one), "path": str(one.path)} for one in found]
    return Table([header, *rows], records, drop=("pair", "date"))


def _few(methods: tuple[str, ...]) -> str:
    """The first of them, and how many more there are."""
    more = f" + {len(methods) - FEW} more" if len(methods) > FEW else ""
    return ", ".join(methods[:FEW]) + more


def kept_checkpoints(run: RunFolder) -> Iterator[str]:
    """Where the checkpoints of the chosen learning rates lie: a line for each method, of the first seed."""
    for one in run.with_sub_runs():
        for method, choice in one.chosen().choices.items() if one.chosen.exists else ():
            if choice.learning_rate is None:
                continue
            paths = one.checkpoints(method, choice.learning_rate)
            where = f"  {method} on {one.description().pair}: " if one.path != run.path else f"  {method}: "
            more = f" (other seeds in the same folder: {len(paths) - 1})" if len(paths) > 1 else ""
            yield where + (f"{paths[0]}{more}" if paths else "not kept (see --keep)")
