"""The curves as files: curves.csv, curves.md and curves.png, of one comparison or of several together."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from sails_eval.boards.contrasts import default_contrasts
from sails_eval.boards.curve_plot import draw_curves
from sails_eval.boards.curves import MARGIN, Point, budget_curves, rate_curves
from sails_eval.boards.leaderboard import Tested, tested
from sails_eval.boards.table import MIN_SEEDS
from sails_eval.core.escape import escape
from sails_eval.core.files import csv_text, write_text
from sails_eval.core.stats import Interval
from sails_eval.core.tables import interval_text, markdown
from sails_eval.plan.budget import AS_THE_PAIR, Size
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.outcome import Outcome

COLUMNS = ("pair", "examples", "steps", "method", "curve", "metric", "x", "value", "low", "high", "note")
"""The columns of curves.csv: the fields of `Point`, those first that say what it is of."""


def rate_points(outcomes: Sequence[Outcome], frame: pd.DataFrame, size: Size = AS_THE_PAIR) -> list[Point]:
    """The curves over learning rates of one pair, or of several together, and what the picked rates do on the test.

    `frame` is their leaderboard, `size` their budget where there are several.
    """
    points = rate_curves({one.plan.pair.name: one.results for one in outcomes}, outcomes[0].tasks)
    for method, found in _shown(frame).items():
        if method in outcomes[0].choices:
            (rate,) = frame.loc[frame["method"] == method, "learning_rate"]
            points.append(Point(method, "picked", "alignment_score", rate, found.value, found.low, found.high, "test"))
    pair = ", ".join(one.plan.pair.name for one in outcomes)
    return [replace(point, pair=pair, examples=size.examples, steps=size.steps) for point in points]


def budget_points(outcomes: Mapping[Size, Sequence[Outcome]], frames: Mapping[Size, pd.DataFrame]) -> list[Point]:
    """The curves over labelled examples, one for each number of steps, of outcomes and leaderboards by budget; none
    where there are not several numbers of examples."""
    found = []
    for steps in dict.fromkeys(size.steps for size in outcomes):
        at = {size.examples: size for size in outcomes if size.steps == steps and size.examples}
        if at:
            of_these = {n: outcomes[size] for n, size in at.items()}, {n: frames[size] for n, size in at.items()}
            found += [replace(point, steps=steps) for point in _over_examples(*of_these)]
    return found


def _over_examples(outcomes: Mapping[int, Sequence[Outcome]], frames: Mapping[int, pd.DataFrame]) -> list[Point]:
    first = next(iter(outcomes.values()))
    contrasts = first[0].plan.contrasts
    if contrasts is None:
        contrasts = default_contrasts([*first[0].choices, *first[0].untrained])
    failed = {method for these in outcomes.values() for one in these for method in one.failed}
    contrasts = tuple(one for one in contrasts if not failed & {one.a, one.b})
    rows = {
        examples: {method: row for method, row in _tested(these).items() if method not in failed}
        for examples, these in outcomes.items()
    }
    points = budget_curves(rows, {examples: _shown(frame) for examples, frame in frames.items()}, contrasts)
    pair = ", ".join(one.plan.pair.name for one in first)
    return [replace(point, pair=pair) for point in points]


def _tested(outcomes: Sequence[Outcome]) -> dict[str, Tested]:
    choices = [one.all_choices for one in outcomes]
    results = {one.plan.pair.name: one.results for one in outcomes}
    return tested(results, outcomes[0].tasks, {method: [of_one[method] for of_one in choices] for method in choices[0]})


def _shown(frame: pd.DataFrame) -> dict[str, Interval]:
    """What a leaderboard says of every method's alignment score."""
    columns = ["method", "alignment_score", "alignment_score_low", "alignment_score_high"]
    return {method: Interval(*numbers) for method, *numbers in frame[columns].itertuples(index=False, name=None)}


def write_curves(run: RunFolder, points: Sequence[Point], *, title: str) -> None:
    """Write curves.csv, curves.md and curves.png; the same bytes for the same points."""
    files = run.analysis("curves")
    write_text(files.table, csv_text(COLUMNS, map(_cells, points)))
    write_text(files.page, to_markdown(points, title=title))
    draw_curves(points, files.picture)


def _cells(point: Point) -> list[object]:
    x = "" if math.isnan(point.x) else f"{point.x:.6g}"  # rates would be lost in six decimals
    return [x if column == "x" else getattr(point, column) for column in COLUMNS]


_BRACKETS = f"""\
Brackets are 95 % intervals over seeds. With fewer than {MIN_SEEDS} seeds there are none, and methods cannot be ranked
(test scores then have the leaderboard's intervals over prompts). All values are in `curves.csv`.
"""


def to_markdown(points: Sequence[Point], *, title: str) -> str:
    """The curves for people: what is best within the limit of over-refusal, for few rates, and for few examples."""
    text = f"# {escape(title)}\n\n{_BRACKETS}"
    text += _limited_text([point for point in points if point.curve == "limited"])
    text += _best_of_text(points)
    for steps in dict.fromkeys(point.steps for point in points if point.curve == "examples"):
        text += _examples_text([point for point in points if point.steps == steps], steps)
    return text


def _limited_text(points: Sequence[Point]) -> str:
    rows = [[*_name(p), _text(p), f"{p.x:.3g}" if p.x > 0 else "–", escape(p.note)] for p in points]
    return (
        f"\n## Alignment score at over-refusal of at most the base model's + {MARGIN:.2f}\n\n"
        "On validation: the best alignment score over a method's learning rates, linearly interpolated between "
        "neighbouring rates,\namong points whose mean over-refusal is within the limit.\n\n"
        + markdown(["method", "alignment score", "learning rate", "note"], rows)
    )


def _best_of_text(points: Sequence[Point]) -> str:
    most = max((int(point.x) for point in points if point.curve == "best_of"), default=0)
    picked = {_name(point)[0]: point for point in points if point.curve == "picked"}
    rows: dict[str, list[str]] = {}
    for point in points:
        if point.curve == "best_of":
            rows.setdefault(_name(point)[0], []).append(f"{point.value:z.2f}")
    return (
        "\n## Expected best of n learning rates\n\n"
        "Alignment score on validation of the best of n rates drawn at random from the grid, and of the chosen rate on "
        "the test.\n\n"
        + markdown(
            ["method", *(f"n = {n}" for n in range(1, most + 1)), "chosen rate, test"],
            [
                [name, *cells, *["–"] * (most - len(cells)), _text(picked[name]) if name in picked else "–"]
                for name, cells in rows.items()
            ],
        )
    )


def _examples_text(points: Sequence[Point], steps: int | None) -> str:
    budgets = sorted({int(point.x) for point in points if point.curve == "examples"})
    rows, apart, crossed = (defaultdict[str, list[str]](list) for _ in range(3))
    for point in points:
        if point.curve in ("examples", "area"):
            rows[escape(point.method)].append(_text(point))
        elif point.curve == "difference":
            apart[escape(point.method)].append(_text(point))
        elif point.curve == "crossover":
            crossed[escape(point.method)].append(f"{point.x:.3g} ({escape(point.note)})")
    return (
        f"\n## Alignment score over labelled examples{f', {steps} steps' if steps else ''}\n\n"
        f"On the test; every budget has the same number of training {'steps' if steps else 'tokens'}. The area is the "
        "one\nunder the curve over log2(examples), divided by its width, so it is the mean height. Examples are those "
        "trained\non; boards also report those that an initialisation uses, which are not counted here.\n\n"
        + markdown(["method", *map(str, budgets), "area"], [[name, *cells] for name, cells in rows.items()])
        + "\nPaired differences over seeds, and the number of examples at which the means cross:\n\n"
        + markdown(
            ["difference", *map(str, budgets), "crossing at"],
            [[name, *cells, "; ".join(crossed.get(name, ["none"]))] for name, cells in apart.items()],
        )
    )


def _name(point: Point) -> list[str]:
    """What a row is called: its method, with the budget where there are several."""
    size = Size(point.examples, point.steps)
    return [escape(f"{point.method}, {size}" if size else point.method)]


def _text(point: Point) -> str:
    return interval_text(point.value, point.low, point.high)
