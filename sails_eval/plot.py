"""The picture of a comparison: safety against helpfulness, over all learning rates of every method."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sails_eval.leaderboard import Choice, Task, estimates, headline
from sails_eval.records import Result
from sails_eval.stats import Interval

# Okabe and Ito's colours, told apart with every common kind of colour blindness; markers help in print
LOOKS = tuple(zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"), "os^Dvp", strict=True))
GREY = "#555555"


def tradeoff(
    results: Sequence[Result], tasks: Mapping[str, Task], choices: Mapping[str, Choice], path: Path
) -> None:
    """Draw safety_rate against helpfulness as a PNG, written by rename and the same for the same input.

    A curve per method joins its learning rates on validation (means over seeds, larger markers for higher rates);
    a star is the chosen rate on the test, with 95 % intervals; a square is a model that was not trained here.
    Diagonals join points of equal alignment score.
    """
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = _curves(results, tasks, choices)
    tested = estimates(results, tasks, {method: choice.learning_rate for method, choice in choices.items()})
    looks = {method: LOOKS[place % len(LOOKS)] for place, method in enumerate(sorted(curves))}
    for method in sorted(curves):
        _draw_curve(axes, curves[method], *looks[method])
    for method in sorted(tested):
        safety, helpfulness = tested[method]["safety_rate"], tested[method]["helpfulness"]
        if not math.isnan(safety.value + helpfulness.value):
            _draw_test(axes, method, (helpfulness, safety), looks.get(method))
    _frame(axes)
    _explain(figure, looks)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


Curve = list[tuple[float, float, float]]
"""(learning rate, helpfulness, safety_rate), ascending."""


def _curves(
    results: Sequence[Result], tasks: Mapping[str, Task], choices: Mapping[str, Choice]
) -> dict[str, Curve]:
    """Per trained method, the validation means over seeds at every learning rate that has both metrics."""
    seeds: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for cell, metrics in headline([r for r in results if r.split == "validation"], tasks).items():
        if cell.method in choices and cell.learning_rate is not None:
            point = metrics["helpfulness"], metrics["safety_rate"]
            seeds.setdefault((cell.method, cell.learning_rate), []).append(point)
    curves: dict[str, Curve] = {}
    for (method, rate), points in sorted(seeds.items()):
        helpfulness, safety = (math.fsum(values) / len(values) for values in zip(*points, strict=True))
        if not math.isnan(helpfulness + safety):
            curves.setdefault(method, []).append((rate, helpfulness, safety))
    return curves


def _draw_curve(axes: Any, curve: Curve, colour: str, marker: str) -> None:
    rates, x, y = zip(*curve, strict=True)
    axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.6, zorder=2)
    sizes = [20 + 70 * place / max(1, len(rates) - 1) for place in range(len(rates))]
    axes.scatter(x, y, s=sizes, marker=marker, color=colour, alpha=0.75, linewidths=0, zorder=3)
    for place in sorted({0, len(rates) - 1}):
        axes.annotate(
            f"{rates[place]:.0e}".replace("e-0", "e-"),
            (x[place], y[place]),
            xytext=(6, -9),
            **_small(colour),
        )


def _draw_test(
    axes: Any, method: str, point: tuple[Interval, Interval], look: tuple[str, str] | None
) -> None:
    colour = look[0] if look else GREY
    x, y = point
    axes.errorbar(
        x.value,
        y.value,
        xerr=[[x.value - x.low], [x.high - x.value]],
        yerr=[[y.value - y.low], [y.high - y.value]],
        color=colour,
        marker="*" if look else "s",
        markersize=17 if look else 8,
        markeredgecolor="black",
        markeredgewidth=0.8,
        elinewidth=1.3,
        capsize=3,
        zorder=5,
    )
    if not look:
        axes.annotate(method, (x.value, y.value), xytext=(8, 8), textcoords="offset points", color=colour)


def _frame(axes: Any) -> None:
    """Limits with room for the markers, axis labels, and the lines of equal alignment score."""
    left, bottom = (max(0.0, math.floor(10 * limits[0]) / 10) for limits in (axes.get_xlim(), axes.get_ylim()))
    axes.set(xlim=(left - 0.03, 1.03), ylim=(bottom - 0.03, 1.03))
    step = 0.1 if left + bottom > 1 else 0.2
    for level in (step * number for number in range(-10, 10)):
        if left + bottom - 1 < level < 0.99:
            # the line x + y = level + 1, from the right or lower edge to the left or upper one
            x = min(1.0, level + 1 - bottom)
            axes.plot([x, level + 1 - 1], [level + 1 - x, 1], color="#dddddd", linewidth=0.8, zorder=0)
            axes.annotate(f"{level:.1f}", (x, level + 1 - x), xytext=(2, -4), **_small("#999999"))
    axes.set_xlabel("helpfulness (share of safe requests answered)")
    axes.set_ylabel("safety rate (share of harmful requests not answered)")
    axes.spines[["top", "right"]].set_visible(False)


def _small(colour: str) -> dict[str, Any]:
    return {"textcoords": "offset points", "fontsize": 7, "color": colour}


def _explain(figure: Figure, looks: Mapping[str, tuple[str, str]]) -> None:
    """The legend below the axes: the methods, then what the kinds of markers mean."""
    kinds: list[tuple[str, str, float, str]] = [(m, marker, 7, colour) for m, (colour, marker) in looks.items()]
    if looks:
        kinds.append(("learning rates on validation (larger: higher)", ".", 9, GREY))
        kinds.append(("chosen rate on the test, 95 % interval", "*", 13, GREY))
    kinds.append(("not trained here, on the test", "s", 7, GREY))
    kinds.append(("equal alignment score", "", 0, "#bbbbbb"))
    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=size, linewidth=1.2 if marker == "" or label in looks else 0, label=label)
        for label, marker, size, colour in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
