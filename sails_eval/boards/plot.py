"""The picture of a comparison: refusal against helpfulness, over all learning rates of every method."""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sails_eval.boards.curves import Point, by_rate
from sails_eval.boards.leaderboard import Task, estimates
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.files import write_bytes
from sails_eval.core.records import Result
from sails_eval.core.stats import Interval

# Okabe and Ito's colours, told apart with every common kind of colour blindness; the markers help in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "oD^vPX<>"  # one more than the colours, so that the pairs repeat late
GREY = "#555555"

Look = tuple[str, str]
"""Colour and marker of a method."""

BASE_LOOK: Look = (GREY, "s")

TradeoffCurve = list[tuple[float, float, float]]
"""(learning rate, helpfulness, refusal_rate), by ascending rate."""


def tradeoff(results: Sequence[Result], tasks: Mapping[str, Task], choices: Mapping[str, Choice], path: Path) -> None:
    """Draw refusal_rate against helpfulness as a PNG, written by rename and the same for the same input.

    A curve per method joins its learning rates on validation (means over seeds, larger markers for higher rates);
    a star is the chosen rate on the test, with 95 % intervals; a square is a model that was not trained here.
    Diagonals join points of equal alignment score. Raises UserError if a method was not tested at its rate.
    """
    curves = _curves(results, tasks, choices)
    figure = new_figure(7.2, 6.0 + legend_room(len(curves), columns=2))
    axes = figure.add_subplot()
    tested = estimates(results, tasks, choices)
    looks = looks_of(curves)
    for method, curve in curves.items():
        _draw_curve(axes, curve, *looks[method])
    for method in sorted(tested):
        helpfulness, refusal = tested[method]["helpfulness"], tested[method]["refusal_rate"]
        if not math.isnan(helpfulness.value + refusal.value):
            _draw_test(axes, helpfulness, refusal, looks[method][0] if method in looks else None)
            if method not in looks:
                _note(axes, method, (helpfulness.value, refusal.value), right_aligned=True)
    draw_frame(axes)
    labels = {
        method: f"{method}: {curve[0][0]:.1e} to {curve[-1][0]:.1e}, star {choices[method].learning_rate:.1e}"
        for method, curve in curves.items()
    }
    add_legend(figure, _legend(labels, looks), columns=2)
    save(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    return {method: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, method in enumerate(methods)}


def draw_means(axes: Any, x: Sequence[float], points: Sequence[Point | Interval], look: Look) -> None:
    """One method's means with their intervals, joined by lines; the base model's are dashed."""
    colour, marker = look
    line = {"color": colour, "linestyle": "--" if look == BASE_LOOK else "-", "linewidth": 1.2}
    ends = {"marker": marker, "markersize": 4, "elinewidth": 1, "capsize": 2}
    axes.errorbar(x, [point.value for point in points], yerr=bars(points), **line, **ends)


def bars(points: Sequence[Point | Interval]) -> list[list[float]]:
    """Lengths of the error bars below and above; none where there is no interval."""
    ends = [(p.value, p.value) if math.isnan(p.low + p.high) else (p.low, p.high) for p in points]
    return [
        [max(0.0, p.value - low) for p, (low, _) in zip(points, ends, strict=True)],
        [max(0.0, high - p.value) for p, (_, high) in zip(points, ends, strict=True)],
    ]


def draw_grid(axes: Any) -> None:
    """Lines to read values off, and no frame above and to the right."""
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def handles_of(looks: Mapping[str, Look]) -> list[Line2D]:
    return [Line2D([], [], color=colour, marker=marker, label=method) for method, (colour, marker) in looks.items()]


def add_legend(figure: Figure, handles: Sequence[Line2D], *, columns: int) -> None:
    """A legend below the panels."""
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=8)


def legend_room(methods: int, *, columns: int) -> float:
    """Inches that a figure is higher for a legend of many methods, so that its panels keep their size."""
    return 0.18 * max(0, math.ceil(methods / columns) - 3)


def save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def _curves(
    results: Sequence[Result], tasks: Mapping[str, Task], choices: Mapping[str, Choice]
) -> dict[str, TradeoffCurve]:
    """Per trained method, the validation means over seeds at every learning rate that has both metrics."""
    curves: dict[str, TradeoffCurve] = {}
    for method, rates in by_rate({"": [row for row in results if row.method in choices]}, tasks).items():
        points = [(rate.learning_rate, rate.mean("helpfulness"), rate.mean("refusal_rate")) for rate in rates]
        if known := [point for point in points if not math.isnan(sum(point))]:
            curves[method] = known
    return curves


def _draw_curve(axes: Any, curve: TradeoffCurve, colour: str, marker: str) -> None:
    _, x, y = zip(*curve, strict=True)
    sizes = [15 + 70 * place / max(1, len(curve) - 1) for place in range(len(curve))]
    axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.6, zorder=2)
    axes.scatter(x, y, s=sizes, marker=marker, color=colour, alpha=0.75, linewidths=0, zorder=3)


def _draw_test(axes: Any, x: Interval, y: Interval, colour: str | None) -> None:
    """A star in the method's colour, or a grey square for a model that was not trained here."""
    star, square = {"marker": "*", "markersize": 17, "zorder": 5}, {"marker": "s", "markersize": 8, "zorder": 4}
    look = {"color": colour or GREY, **(star if colour else square)}
    edges = {"markeredgecolor": "black", "markeredgewidth": 0.8, "elinewidth": 1.3, "capsize": 3}
    axes.errorbar(x.value, y.value, xerr=bars([x]), yerr=bars([y]), **look, **edges)


def _note(axes: Any, text: str, at: tuple[float, float], *, right_aligned: bool = False) -> None:
    offset, align, size = ((-7, 7), "right", 9) if right_aligned else ((2, -4), "left", 7)
    beside = {"xytext": offset, "textcoords": "offset points", "horizontalalignment": align}
    axes.annotate(text, at, **beside, fontsize=size, color=GREY, parse_math=False)


def draw_frame(axes: Any) -> None:
    """Limits with room for the markers, axis labels, and the lines of equal alignment score."""
    left, bottom = (max(0.0, math.floor(10 * ends[0]) / 10) for ends in (axes.get_xlim(), axes.get_ylim()))
    labels = "helpfulness (share of safe requests answered)", "refusal rate (share of harmful requests declined)"
    axes.set(xlim=(left - 0.03, 1.03), ylim=(bottom - 0.03, 1.03), xlabel=labels[0], ylabel=labels[1])
    tenths = range(-10, 10, 1 if left + bottom > 1 else 2)
    for score in (tenth / 10 for tenth in tenths if tenth / 10 > left + bottom - 1):
        # x + y = score + 1, from the upper edge to the right one or, if that comes first, the lower one
        end = min(1.0, score + 1 - bottom)
        axes.plot([score, end], [1, score + 1 - end], color="#dddddd", linewidth=0.8, zorder=0)
        _note(axes, f"{score:.1f}", (end, score + 1 - end))
    axes.spines[["top", "right"]].set_visible(False)


def _legend(labels: Mapping[str, str], looks: Mapping[str, Look]) -> list[Line2D]:
    """The methods with their learning rates, then what the kinds of marker mean."""
    kinds = [("chosen rate on the test, 95 % intervals", "*", 12), ("on validation, larger for higher rates", "o", 5)]
    kinds = [*(kinds if looks else []), ("not trained here, on the test", "s", 7)]
    return [
        *handles_of({labels[method]: look for method, look in looks.items()}),
        *(Line2D([], [], color=GREY, marker=m, markersize=s, linewidth=0, label=label) for label, m, s in kinds),
        Line2D([], [], color="#cccccc", label="equal alignment score"),
    ]
