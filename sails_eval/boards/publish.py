"""Published boards: merge the leaderboards of runs into one CSV with a Markdown beside it, check it, show it.

A published row holds names, hashes and scores, never a prompt or an answer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sails_eval.boards.contrasts import protocol_hash
from sails_eval.boards.page import to_markdown
from sails_eval.boards.table import (
    BEFORE_REFUSALS,
    EXPLORATORY,
    METRICS,
    PROVENANCE,
    SCHEMA,
    TEXTS,
    make_frame,
    read_rows,
    write_frame,
)
from sails_eval.core.errors import UserError
from sails_eval.core.escape import neutralise, restore
from sails_eval.core.files import read_csv, write_text
from sails_eval.core.schema import read_mapping

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 2e-6
"""How far two roundings to six decimals can bring apart what is the same."""

SAME = ("environment", "test_set", "judge", "schema")
"""What the rows of a board have in common unless it is mixed on purpose."""


def publish(
    rows: Sequence[Mapping[str, Any]], board: Path, *, force: bool = False, exploratory: bool = False
) -> pd.DataFrame:
    """Merge a run's rows, with their provenance, into a board and rewrite the Markdown beside it; returns the board.

    They replace those it had on the board, so publishing twice changes nothing. Raises UserError if the board holds
    rows that differ in what is the `SAME`, unless `force` allows these; the Markdown then says so. Nothing allows
    another schema: its alignment scores are of something else. Nor does it take trained rows that no protocol was fixed
    for, unless they are published as `exploratory`.
    """
    if board.suffix != ".csv":
        raise UserError(f"{board}: not a .csv file; give the board as --board FILE.csv")
    run = rows[0]["run"]
    if not exploratory and any(row["protocol"] == EXPLORATORY and row["seeds"] for row in rows):
        raise UserError(
            f"run '{run}' is exploratory: nothing was fixed before its test; repeat it with --protocol confirm (and "
            "publish the whole run, not one organism's folder), or add --exploratory to publish it as exploratory"
        )
    others = [row for row in read_rows(board) if row["run"] != run] if board.exists() else []
    if others and set(PROVENANCE) - others[0].keys():
        raise UserError(
            f"{board}: a run's leaderboard and not a board (no columns {', '.join(PROVENANCE)}); give another --board"
        )
    for column in ("schema",) if force else SAME:
        here = str(rows[0][column])
        if foreign := sorted({str(row[column]) for row in others} - {here}):
            raise UserError(
                f"{board}: has rows of another {column.replace('_', ' ')} ({', '.join(foreign)}) than run "
                f"'{run}' ({here}); publish to another board" + (", or add --allow-mixed" if column != "schema" else "")
            )
    frame = make_frame([*others, *rows], published=True)
    write_frame(board, frame)
    write_text(board.with_suffix(".md"), to_markdown(frame, title=f"Leaderboard {board.stem}"))
    return frame


def protocol_file(board: Path, fingerprint: str) -> Path:
    """Where a board keeps the protocol that its rows name."""
    return board.with_name(f"{board.stem}-protocol-{fingerprint}.yaml")


def check(path: Path) -> list[str]:
    """What is wrong with a board, or with a run's leaderboard; nothing if it is in order.

    The protocols that a board's rows name are to lie beside it, as they were.
    """
    try:
        rows = read_rows(path)
        header, lines = read_csv(path)
    except UserError as error:
        return [str(error)]
    problems = [] if rows else [f"{path}: no rows"]
    for (number, cells), row in zip(lines, rows, strict=True):
        problems += [f"{path}:{number}: {problem}" for problem in _row_problems(row)]
        for column, cell in zip(header, cells, strict=True):
            if column in TEXTS and neutralise(restore(cell)) != cell:
                problems.append(f"{path}:{number}: {column} '{cell}' would run as a formula in a spreadsheet")
    counts = Counter((row["run"], row["method"]) for row in rows).items()
    problems += [f"{path}: {n} rows of method '{method}' in run '{run}'" for (run, method), n in counts if n > 1]
    place = ["run", "method", "rank"]
    ranked = make_frame(rows, published="pair" in header)[place].itertuples(index=False, name=None)
    if [tuple(row[column] for column in place) for row in rows] != list(ranked):
        problems.append(f"{path}: rows are not ranked by alignment score, best first")
    if "pair" in header:
        problems += _protocol_problems(path, sorted({row["protocol"] for row in rows} - {"", EXPLORATORY}))
    return problems


def _protocol_problems(board: Path, fingerprints: Sequence[str]) -> Iterator[str]:
    for fingerprint in fingerprints:
        file = protocol_file(board, fingerprint)
        if not file.is_file():
            yield f"{board}: {file.name}, the protocol of its rows, is missing in its folder; publish the run again"
        elif protocol_hash(read_mapping(file)) != fingerprint:
            yield f"{file}: changed since it was published; publish the run again"


def _row_problems(row: dict[str, Any]) -> Iterator[str]:
    if row["schema"] not in (BEFORE_REFUSALS, SCHEMA):
        yield f"schema {row['schema']}, not {SCHEMA}"
    yield from (f"{column} is empty" for column in ("method", "run") if not row[column])
    for metric, about in METRICS.items():
        value, low, high = row[metric], row[f"{metric}_low"], row[f"{metric}_high"]
        if math.isnan(low) and math.isnan(high):  # no interval, as in a smoke test
            low = high = value
        known = not all(map(math.isnan, (value, low, high)))
        if known and not about.low <= low <= value <= high <= about.high:
            yield f"{metric} {value} [{low}, {high}] is not within {about.low:g} to {about.high:g}"
    worst, value, best = (row["alignment_score" + end] for end in ("_worst", "", "_best"))
    if not math.isnan(value) and not worst - ROUNDING <= value <= best + ROUNDING:
        yield f"alignment_score {value} is not within {worst} to {best}, its bounds by unscored answers"
    for column, most in (("unscored", 1), ("trainable_pct", 100), ("seeds", math.inf)):
        if not 0 <= row[column] <= most:
            yield f"{column} is {row[column]}"
