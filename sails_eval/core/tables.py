"""Tables of text, aligned with spaces for the terminal or in Markdown, and intervals as their cells."""

import math
import re
from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], sides: str = "l") -> list[str]:
    """The lines of a table, whose columns are as wide as their widest cell.

    `sides` has l (left) or r (right) for each column; the last one holds for all that follow.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.rjust if side == "r" else str.ljust for side in sides.ljust(len(widths), sides[-1])]
    padded = [[pad(cell, width) for pad, cell, width in zip(pads, row, widths, strict=True)] for row in rows]
    return ["  ".join(row).rstrip() for row in padded]


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
