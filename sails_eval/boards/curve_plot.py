"""The picture of the curves: refusal against helpfulness, the best of n rates, and the score over examples."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from sails_eval.boards import plot
from sails_eval.boards.curves import CurveKind, Point
from sails_eval.boards.looks import BASE_LOOK, GREY, Look, looks_of
from sails_eval.core.records import BASE

Looks = Mapping[str, Look]


def draw_curves(points: Sequence[Point], path: Path) -> None:
    """Draw curves.csv as a PNG, written by rename and the same for the same points.

    Over learning rates it shows the largest budget. Bars and bands are 95 % intervals.
    """
    largest = max((point.examples for point in points if point.examples), default=None)
    longest = max((point.steps for point in points if point.steps), default=None)
    shown = [point for point in points if point.examples in (None, largest) and point.steps in (None, longest)]
    methods = dict.fromkeys(point.method for point in shown if point.curve == "rates" and point.method != BASE)
    looks = looks_of(methods)
    over_examples = [point for point in shown if point.curve == "examples"]
    figure = plot.new_figure(7.2, 9.4 + plot.legend_room(len(looks), columns=4))
    panels = [["rates", "rates"], ["best_of", "examples" if over_examples else "best_of"]]
    axes: dict[str, Any] = figure.subplot_mosaic(panels, height_ratios=[3, 2])
    _draw_rates(axes["rates"], shown, looks)
    _draw_best_of(axes["best_of"], shown, looks)
    if over_examples:
        _draw_examples(axes["examples"], over_examples, looks)
    note = "on validation, at every learning rate; filled markers are Pareto-optimal"
    told = [*([f"{largest} labelled examples"] if largest else []), *([f"{longest} steps"] if longest else []), note]
    axes["rates"].set_title(", ".join(told), fontsize=9, loc="left")
    base = Line2D([], [], color=GREY, marker="s", linestyle="--", label=BASE)
    plot.add_legend(figure, [*plot.handles_of(looks), base], columns=4)
    plot.save(figure, path)


def _of(points: Sequence[Point], curve: CurveKind, method: str, metric: str = "alignment_score") -> list[Point]:
    found = [p for p in points if (p.curve, p.method, p.metric) == (curve, method, metric) and not math.isnan(p.value)]
    return sorted(found, key=lambda point: point.x)


def _draw_rates(axes: Any, points: Sequence[Point], looks: Looks) -> None:
    """Refusal against helpfulness on validation; filled markers are Pareto-optimal among the method's rates."""
    for method, (colour, marker) in (*looks.items(), (BASE, BASE_LOOK)):
        x, y = (_of(points, "rates", method, metric) for metric in ("helpfulness", "refusal_rate"))
        if len(x) != len(y) or not x:
            continue
        at = [point.value for point in x], [point.value for point in y]
        axes.plot(*at, color=colour, linewidth=1.2, zorder=2)
        axes.errorbar(
            *at, xerr=plot.bars(x), yerr=plot.bars(y), fmt="none", ecolor=colour, elinewidth=1, alpha=0.35, zorder=1
        )
        for one, other in zip(x, y, strict=True):
            face = colour if one.note == "optimal" or method == BASE else "white"
            axes.plot(one.value, other.value, marker, color=colour, markerfacecolor=face, markersize=6, zorder=3)
    plot.draw_frame(axes)


def _draw_best_of(axes: Any, points: Sequence[Point], looks: Looks) -> None:
    """The expected best of n rates with its band, and beside it the picked rates on the test."""
    most = 1.0
    for method, (colour, marker) in looks.items():
        curve = _of(points, "best_of", method)
        if not curve:
            continue
        x, most = [point.x for point in curve], max(most, curve[-1].x)
        axes.plot(x, [point.value for point in curve], color=colour, marker=marker, markersize=4, linewidth=1.2)
        axes.fill_between(
            x, [point.low for point in curve], [point.high for point in curve], color=colour, alpha=0.12, linewidth=0
        )
    for place, (method, (colour, marker)) in enumerate(looks.items()):
        picked = [point for point in points if (point.curve, point.method) == ("picked", method)]
        values = [point.value for point in picked]
        x = [most + 0.5 + 0.25 * place] * len(picked)
        axes.errorbar(x, values, yerr=plot.bars(picked), color=colour, fmt=marker, markeredgecolor="black", capsize=2)
    axes.set_xticks(range(1, int(most) + 1))
    _finish(axes, "best of n learning rates, on validation;\nto the right: the picked rate, on the test")


def _draw_examples(axes: Any, points: Sequence[Point], looks: Looks) -> None:
    """The leaderboards' alignment scores over the budgets of labelled examples."""
    for method, look in (*looks.items(), (BASE, BASE_LOOK)):
        curve = _of(points, "examples", method)
        plot.draw_means(axes, [point.x for point in curve], curve, look)
    budgets = sorted({int(point.x) for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, labels=map(str, budgets))
    axes.minorticks_off()
    _finish(axes, "labelled examples, on the test")


def _finish(axes: Any, label: str) -> None:
    axes.set(xlabel=label, ylabel="alignment score")
    plot.draw_grid(axes)
