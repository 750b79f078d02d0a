"""The picture of a comparison: refusal against helpfulness, over all learning rates of every method."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sails_eval.boards.curves import Point, by_rate
from sails_eval.boards.leaderboard import Task, estimates
from sails_eval.boards.looks import BASE_LOOK, GREY, Look, look_of, looks_of
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.files import write_bytes
from sails_eval.core.records import Result
from sails_eval.core.stats import Interval

FEW = 10
"""The most trained methods whose curves one panel can show; with more, the chosen rates have a panel of their own."""

TradeoffCurve = list[tuple[float, float, float]]
"""(learning rate, helpfulness, refusal_rate), by ascending rate."""


def tradeoff(results: Sequence[Result], tasks: Mapping[str, Task], choices: Mapping[str, Choice], path: Path) -> None:
    """Draw refusal_rate against helpfulness as a PNG, written by rename and the same for the same input.

    A curve per method joins its learning rates on validation (means over seeds, larger markers for higher rates);
    one with a black edge is the chosen rate on the test, with 95 % intervals; a square is a model that was not trained
    here. Of more than FEW methods, what was tested has a panel of its own, and the legend has them by their alignment
    score. Diagonals join points of equal alignment score. Raises UserError if a
    method was not tested at its rate.
    """
    curves, tested = _curves(results, tasks, choices), estimates(results, tasks, choices)
    known = {name: row for name, row in tested.items() if not math.isnan(_score(row))}
    if len(curves) > FEW:
        curves = {name: curves[name] for name in sorted(curves, key=lambda name: -_score(tested[name]))}
        figure = _draw_many(curves, known)
    else:
        figure = new_figure(7.2, 6.0 + legend_room(len(curves), columns=2))
        axes = figure.add_subplot()
        for method, curve in curves.items():
            _draw_curve(axes, curve, *look_of(method))
        for method in sorted(known):
            _draw_test(axes, known[method], method, look_of(method) if method in curves else None)
        draw_frame(axes)
    labels = {
        method: f"{method}: {curve[0][0]:.1e} to {curve[-1][0]:.1e}, chosen {choices[method].learning_rate:.1e}"
        if len(curves) <= FEW
        else f"{method} at {choices[method].learning_rate:.1e}"
        for method, curve in curves.items()
    }
    add_legend(figure, _legend(labels, looks_of(curves)), columns=2 if len(curves) <= FEW else 4)
    save(figure, path)


def _score(row: Mapping[str, Interval]) -> float:
    return row["helpfulness"].value + row["refusal_rate"].value


def _draw_many(curves: Mapping[str, TradeoffCurve], tested: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Left all rates on validation, right what was tested, as near as the points allow."""
    figure = new_figure(13.0, 5.8 + legend_room(len(curves), columns=4))
    left, right = figure.subplots(1, 2)
    for method, curve in curves.items():
        left.plot(*list(zip(*curve, strict=True))[1:], color=look_of(method)[0], linewidth=1.0, alpha=0.5)
    for method in sorted(tested, key=lambda name: _score(tested[name])):
        _draw_test(right, tested[method], method, look_of(method) if method in curves else None, crowded=True)
    trained = [row for name, row in tested.items() if name in curves]
    for axis, metric in (("x", "helpfulness"), ("y", "refusal_rate")):
        values = [row[metric].value for row in trained]
        room = 0.15 * (max(values) - min(values)) + 0.01
        right.set(**{f"{axis}lim": (max(-0.03, min(values) - room), min(1.03, max(values) + room))})
    draw_frame(left)
    draw_frame(right, zoomed=True)
    left.set_title("on validation, at every learning rate", fontsize=9, loc="left")
    right.set_title("on the test, at the chosen rate, with 95 % intervals; best first below", fontsize=9, loc="left")
    return figure


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


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


def _draw_test(
    axes: Any, row: Mapping[str, Interval], method: str, look: Look | None, *, crowded: bool = False
) -> None:
    """The method's marker, larger and with a black edge, or a grey square with the name of a model that was not trained
    here; intervals are pale where it is crowded."""
    x, y = row["helpfulness"], row["refusal_rate"]
    colour, marker = look or BASE_LOOK
    bar = {"ecolor": colour, "elinewidth": 0.7 if crowded else 1.3, "capsize": 0 if crowded else 3}
    place = 5 if look else 4
    lines = axes.errorbar(x.value, y.value, xerr=bars([x]), yerr=bars([y]), fmt="none", zorder=place - 2, **bar)
    for line in lines[2] if crowded else ():
        line.set_alpha(0.3)
    edges = {
        "markeredgecolor": "black",
        "markeredgewidth": 0.8,
        "markersize": 12 if look and not crowded else 9,
        "linewidth": 0,
    }
    axes.plot(x.value, y.value, marker, color=colour, zorder=place, **edges)
    if look is None:
        _note(axes, method, (x.value, y.value), right_aligned=True)


def _note(axes: Any, text: str, at: tuple[float, float], *, right_aligned: bool = False) -> None:
    offset, align, size = ((-7, 7), "right", 9) if right_aligned else ((2, -4), "left", 7)
    beside = {"xytext": offset, "textcoords": "offset points", "horizontalalignment": align}
    axes.annotate(text, at, **beside, fontsize=size, color=GREY, parse_math=False)


def draw_frame(axes: Any, *, zoomed: bool = False) -> None:
    """Limits with room for the markers (or as they are, where `zoomed`), axis labels, and the lines of equal alignment
    score."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    if not zoomed:
        left, bottom, right, top = math.floor(10 * left) / 10, math.floor(10 * bottom) / 10, 1.0, 1.0
    left, bottom, right, top = max(0.0, left), max(0.0, bottom), min(1.0, right), min(1.0, top)
    labels = "helpfulness (share of safe requests answered)", "refusal rate (share of harmful requests declined)"
    axes.set(xlabel=labels[0], ylabel=labels[1])
    if not zoomed:
        axes.set(xlim=(left - 0.03, 1.03), ylim=(bottom - 0.03, 1.03))
    low, high = left + bottom - 1, right + top - 1
    tenths = range(-10, 10, 1 if high - low < 1 else 2)
    for score in (tenth / 10 for tenth in tenths if low < tenth / 10 < high):
        # x + y = score + 1, from the upper edge to the right one or, if that comes first, the lower one
        start, end = score + 1 - top, min(right, score + 1 - bottom)
        axes.plot([start, end], [score + 1 - start, score + 1 - end], color="#dddddd", linewidth=0.8, zorder=0)
        if end == right or not zoomed:  # below, it would stand on the ticks
            _note(axes, f"{score:.1f}", (end, score + 1 - end))
    axes.spines[["top", "right"]].set_visible(False)


def _legend(labels: Mapping[str, str], looks: Mapping[str, Look]) -> list[Line2D]:
    """The methods with their learning rates, then what the kinds of marker mean."""
    kinds = [("not trained here, on the test", "s", 7, "black")]
    if 0 < len(looks) <= FEW:
        kinds.insert(0, ("on validation, larger for higher rates", "o", 5, GREY))
        kinds.insert(0, ("chosen rate on the test, 95 % intervals", "o", 9, "black"))
    plain: dict[str, Any] = {"color": GREY, "linewidth": 0}
    return [
        *handles_of({labels[method]: look for method, look in looks.items()}),
        *(Line2D([], [], marker=m, markersize=s, markeredgecolor=e, label=label, **plain) for label, m, s, e in kinds),
        Line2D([], [], color="#cccccc", label="equal alignment score"),
    ]
