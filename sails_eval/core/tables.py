"""Tables of text, fitted to the terminal or in Markdown, and intervals as their cells."""

import argparse
import csv
import io
import json
import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sails_eval.core.escape import neutralise, one_line

TEXT_WIDTH = 20
"""Columns that are wider than this hold text, which may be wrapped down to it."""

GAP = 2
"""Spaces between columns."""


def aligned(rows: Sequence[Sequence[str]], sides: str = "l") -> list[str]:
    """The lines of a table, whose columns are as wide as their widest cell.

    `sides` has l (left) or r (right) for each column; the last one holds for all that follow.
    """
    rows = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.rjust if side == "r" else str.ljust for side in sides.ljust(len(widths), sides[-1])]
    padded = [[pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]


def screen_width() -> int | None:
    """How wide a line may be on stdout: as $COLUMNS says, else the terminal; None where there is no limit."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"])
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fitted(rows: Sequence[Sequence[str]], sides: str = "l", drop: Sequence[str] = (), *, margin: int = 0) -> list[str]:
    """As `aligned`, on lines that the screen has room for beside a `margin`: texts are wrapped, and columns of `drop`
    left out, those first that are named first. A last line names these."""
    width, rows = screen_width(), [[one_line(cell) for cell in row] for row in rows]
    if width is None:
        return aligned(rows, sides)
    width -= margin
    kept, sides = list(range(len(rows[0]))), sides.ljust(len(rows[0]), sides[-1])
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [min(n, TEXT_WIDTH) if _wraps(column) else n for n, column in zip(widths, columns, strict=True)]
    for name in drop:
        if sum(least[i] + GAP for i in kept) - GAP > width and name in rows[0]:
            kept.remove(list(rows[0]).index(name))
    left_out = [name for i, name in enumerate(rows[0]) if i not in kept]
    cut = [[row[i] for i in kept] for row in rows]
    sides = "".join(sides[i] for i in kept)
    fits = sum(widths[i] + GAP for i in kept) - GAP <= width
    lines = aligned(cut, sides) if fits else _wrapped(cut, sides, width)
    return (
        [*lines, *wrapped(f"(columns left out: {', '.join(left_out)}; --wide shows all)").splitlines()]
        if left_out
        else lines
    )


def _wraps(column: Sequence[str]) -> bool:
    """Whether a column holds words, which can stand on several lines, and not names or numbers."""
    return any(len(cell) > TEXT_WIDTH and " " in cell for cell in column)


def _wrapped(rows: Sequence[Sequence[str]], sides: str, width: int) -> list[str]:
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    columns = list(zip(*rows, strict=True))
    least = [TEXT_WIDTH if _wraps(column) else max(map(len, column)) for column in columns]
    tight = sum(least) + GAP * (len(least) - 1) > width  # then words are cut, too, rather than lost
    grid = Grid.grid(padding=(0, GAP, 0, 0))
    for side, column, n in zip(sides, columns, least, strict=True):
        place: Any = "right" if side == "r" else "left"
        whole = not _wraps(column) and (n <= TEXT_WIDTH or not tight)
        grid.add_column(justify=place, no_wrap=whole, min_width=None if tight else n, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    console = Console(width=width, file=io.StringIO(), color_system=None, force_terminal=False, legacy_windows=False)
    with console.capture() as shown:
        console.print(grid)
    return [line.rstrip() for line in shown.get().splitlines()]


def wrapped(text: str, *, indent: int = 2) -> str:
    """A line as the lines that the screen has room for; those that follow are indented by so many spaces."""
    width = screen_width()
    if width is None:
        return text
    wrapper = textwrap.TextWrapper(width, subsequent_indent=" " * indent)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return "\n".join(wrapper.wrap(text))


def as_yaml(values: Mapping[str, Any]) -> str:
    """Keys and values as a file has them, on lines that the screen has room for."""
    import yaml

    width = (screen_width() or 128) - 8  # a line ends behind the word that reaches it
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=width).rstrip()


@dataclass(frozen=True)
class Table:
    """A table for people and for programs: `rows` are texts, the header first, `records` what they are of.

    `drop` names the columns that are left out where there is no room, those first that are named first.
    """

    rows: Sequence[Sequence[str]]
    records: Sequence[Mapping[str, Any]]
    sides: str = "l"
    drop: Sequence[str] = ()

    def lines(self) -> list[str]:
        return fitted(self.rows, self.sides, self.drop)

    def json(self) -> str:
        """A list of objects; null where there is no value."""
        told = [{key: _or_none(value) for key, value in record.items()} for record in self.records]
        return json.dumps(told, indent=2, ensure_ascii=False, default=str)

    def csv(self) -> str:
        """The same with a header; empty where there is no value, a list with commas."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.records[0]) if self.records else [], lineterminator="\n")
        writer.writeheader()
        for record in self.records:
            told = {key: ",".join(value) if isinstance(value, tuple) else value for key, value in record.items()}
            writer.writerow({key: _in_csv(value) for key, value in told.items()})
        return text.getvalue().rstrip("\n")


def add_wide(command: Any) -> None:
    """The flag of commands whose tables are not all that they print."""
    text = "print all columns in full, wider than the terminal if need be (default: fit the terminal)"
    command.add_argument("--wide", action="store_true", help=text)


def add_table_flags(command: argparse.ArgumentParser) -> None:
    """How a command's table is printed."""
    how = command.add_argument_group("table").add_mutually_exclusive_group()
    add_wide(how)
    how.add_argument("--json", action="store_true", help="print the data as JSON (a list of objects)")
    how.add_argument("--csv", action="store_true", help="print the data as CSV")


def print_table(
    options: argparse.Namespace, table: Table, *, above: Iterable[str] = (), below: Iterable[str] = ()
) -> None:
    """Print a table as the flags say, with lines around it where people read it."""
    if options.json:
        print(table.json())
    elif options.csv:
        print(table.csv())
    else:
        print(*above, *table.lines(), *map(wrapped, below), sep="\n")


def _in_csv(value: Any) -> Any:
    return neutralise(str(value)) if isinstance(value, (str, Path)) else _or_none(value)


def _or_none(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; a | in a cell is escaped, where it is not yet."""
    lines = (header, ["---"] * len(header), *rows)
    return "".join("| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in line) + " |\n" for line in lines)


def interval_text(value: float, low: float, high: float, form: str = "z.2f") -> str:
    """`0.81 [0.76, 0.86]`, without brackets where there is no interval, a dash where there is no value.

    `form` is how each number is formatted (z: no -0.00).
    """
    if math.isnan(value):
        return "–"
    brackets = "" if math.isnan(low) else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{brackets}"
