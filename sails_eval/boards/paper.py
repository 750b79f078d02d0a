"""The figures that the SAILS paper reports, beside those of a board: reported, not measured here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sails_eval.boards.page import metric_text
from sails_eval.boards.table import rows_of
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_csv
from sails_eval.core.paths import bundled
from sails_eval.core.tables import fitted

if TYPE_CHECKING:
    import pandas as pd

HEADING = "Reported by the SAILS paper (arXiv 2512.23260), not measured here: other models, data, tests and judge"

COLUMNS = ("method", "model", "test", "metric", "value", "note", "source")


def read_paper() -> list[dict[str, str]]:
    """The rows of `leaderboards/paper.csv`: a figure each, and where it was found. Raises UserError if it is broken."""
    path = bundled("leaderboards") / "paper.csv"
    header, lines = read_csv(path)
    if tuple(header) != COLUMNS:
        raise UserError(f"{path}: expected the columns {', '.join(COLUMNS)}")
    return [dict(zip(header, cells, strict=True)) for _, cells in lines]


def beside_paper(board: pd.DataFrame) -> str:
    """The paper's figures for the terminal; `here` is what the board has of the same method and metric."""
    lines = [["method", "metric", "reported", "its model", "its test", "here", "note", "source"]]
    for figure in read_paper():
        here = [_here(row, figure["metric"]) for row in rows_of(board) if row["method"] == figure["method"]]
        reported = [figure[column] for column in ("method", "metric", "value", "model", "test")]
        lines.append([*reported, "; ".join(filter(None, here)) or "–", figure["note"], figure["source"]])
    return "\n".join([HEADING, *fitted(lines)])


def _here(row: Mapping[str, Any], metric: str) -> str:
    """What a row of the board says of a metric, and of which model; nothing where it has none."""
    if f"{metric}_low" in row:
        return f"{metric_text(row, metric)} on {row['model']}"
    return f"{row[metric]:.3g} on {row['model']}" if metric in row else ""
