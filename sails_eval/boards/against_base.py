"""What training changed: each axis of a row minus that of the base model on the same test."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from statistics import fmean
from typing import Any

from sails_eval.core.stats import Interval, Sample
from sails_eval.core.tables import markdown

AXES = ("refusal_rate", "harm_score", "over_refusal_rate", "helpfulness", "capability")
"""The metrics that are also shown as differences."""

ENDS = ("", "_low", "_high")
"""What the columns of a metric end in: its value, and the ends of its interval."""

COLUMNS = tuple(f"{axis}_vs_base{end}" for axis in AXES for end in ENDS)


def difference(row: Sample, base: Sample, *, replicated: bool) -> Interval:
    """The row's mean minus the base model's, organism by organism; NaN where a value is missing.

    The base model is one model and has no seeds: a constant of each organism. The 95 % interval is over the row's seeds
    and the organisms, and NaN where these are too few to be `replicated`.
    """
    differences = row.minus(base)
    if replicated and differences.complete:
        return differences.mean().interval()
    return Interval(fmean(chain(*differences.values)), math.nan, math.nan)


_ABOUT = """\
What training changed: each axis minus that of the base row of the same run, organism by organism. Brackets hold 95 %
intervals over seeds (and organisms) where there are enough of them, without tests or correction for their number.
"""


def section(rows: Iterable[tuple[str, Mapping[str, Any]]], titles: Mapping[str, str]) -> str:
    """The differences of the trained rows for people, from rows of a board by what they are called; empty if none."""
    lines = [
        [name, *(Interval(*(row[f"{axis}_vs_base{end}"] for end in ENDS)).shown("+z.2f") for axis in AXES)]
        for name, row in rows
        if not all(math.isnan(row[f"{axis}_vs_base"]) for axis in AXES)
    ]
    if not lines:
        return ""
    return f"## Against the base model\n\n{_ABOUT}\n{markdown(['method', *(titles[axis] for axis in AXES)], lines)}\n"
