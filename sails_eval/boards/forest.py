"""The forest plot: every declared comparison of a board with its simultaneous interval."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sails_eval.boards.looks import GREY, look_of
from sails_eval.boards.plot import new_figure, save
from sails_eval.boards.table import EQUIVALENCE_MARGIN, METRICS
from sails_eval.core.stats import Interval

NOTE = f"shaded: ±{EQUIVALENCE_MARGIN:g}, within which rows are equivalent; simultaneous 95 % intervals"


class Told(NamedTuple):
    """What a leaderboard tells of a comparison: its rows, the metric's title, and the difference."""

    label: str
    b: str
    metric: str
    difference: Interval


def told_of(a: str, texts: str) -> list[Told]:
    """The comparisons in a row's column `contrasts`, which are `Comparison`s as text, with semicolons between."""
    number = r"([+-][0-9.]+)"
    form = rf"{re.escape(a)}( \(best on tuning\) -[^;]* is| -) ([^,]+), ([^:]+): {number} \[{number}, {number}\]"
    found = []
    for best, b, metric, *ends in re.findall(rf"(?:^|; ){form}", texts):
        label = f"{a}, best on tuning, − {b}, nearest of the rest" if "best" in best else f"{a} − {b}"
        found.append(Told(label, b, metric, Interval(*map(float, ends))))
    return found


def draw_comparisons(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Draw the declared comparisons of a leaderboard's rows as a PNG, written by rename and the same for the same rows;
    a panel for each metric, in the colours of the second rows. Without any, no picture is left there."""
    found = [told for row in rows for told in told_of(row["method"], row["contrasts"])]
    titles = [metric.title for metric in METRICS.values()]
    metrics = sorted({told.metric for told in found}, key=titles.index)
    if not metrics:
        path.unlink(missing_ok=True)
        return
    shown = [[told for told in found if told.metric == metric] for metric in metrics]
    heights = [0.28 * len(these) + 0.75 for these in shown]
    figure = new_figure(8.4, sum(heights) + 0.3)
    panels = figure.subplots(len(shown), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, these, metric in zip(panels, shown, metrics, strict=True):
        _draw_panel(axes, these, metric)
    figure.suptitle(NOTE, fontsize=8, color=GREY)
    save(figure, path)


def _draw_panel(axes: Any, these: list[Told], metric: str) -> None:
    """The differences in one metric, from top to bottom, each with its figures beside it."""
    axes.axvspan(-EQUIVALENCE_MARGIN, EQUIVALENCE_MARGIN, color="#eeeeee", zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for place, (_, b, _, one) in enumerate(these):
        colour, marker = look_of(b)
        axes.plot([one.low, one.high], [place, place], color=colour, linewidth=1.6, zorder=2)
        axes.plot(one.value, place, marker, color=colour, markersize=7, zorder=3)
        beside = {"transform": axes.get_yaxis_transform(), "verticalalignment": "center", "fontsize": 8}
        axes.text(1.02, place, one.shown("+z.3f"), **beside)
    axes.set_yticks(range(len(these)), labels=[told.label for told in these], fontsize=9, parse_math=False)
    axes.set_ylim(len(these) - 0.5, -0.5)
    axes.set_xlabel(f"difference in {metric}", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
