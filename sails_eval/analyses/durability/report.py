"""The decay curves as a file, a table and a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from sails_eval.analyses.finished_run import over_seeds, shown_tables
from sails_eval.boards import plot
from sails_eval.boards.looks import Look, looks_of
from sails_eval.boards.table import METRICS as ALL_METRICS
from sails_eval.boards.table import UNSCORED_FLAG
from sails_eval.core.files import read_table
from sails_eval.core.records import BASE
from sails_eval.core.stats import Interval
from sails_eval.core.tables import fitted
from sails_eval.run.folder.run_folder import RunFolder

NAME = "durability"

METRICS = ("alignment_score", "refusal_rate", "safety_rate", "helpfulness")
"""The first is the one whose change is shown. Tables of versions that counted no refusals do not have the second."""

BEFORE = ("none", 0)
"""The attack of rows that say what the run measured."""


@dataclass(frozen=True)
class Decay:
    """A row of durability.csv: a metric on the test after an attack; `examples` is None where it is fine-tuned on none.

    `unscored` is the share of the model's judged answers that have no verdict and are in no metric. `low` and `high`
    are the ends of the leaderboard's interval of the mean over the method's seeds; NaN in earlier tables.
    """

    method: str
    seed: int | None
    learning_rate: float | None
    attack: str
    examples: int | None
    metric: str
    value: float
    unscored: float = 0.0
    low: float = math.nan
    high: float = math.nan

    @property
    def done(self) -> tuple[str, int | None]:
        return self.attack, self.examples


def estimate(rows: Sequence[Decay]) -> Interval:
    """The mean over seeds of rows of one method, attack and metric, with the interval that they name."""
    return Interval(fmean(row.value for row in rows), rows[0].low, rows[0].high)


def change(rows: Sequence[Decay], before: Sequence[Decay]) -> Interval:
    """The mean change since before the attack, seed by seed, with an interval from MIN_SEEDS seeds on.

    The one base model is what all its seeds come from.
    """
    values = {row.seed: row.value for row in before}
    differences = [row.value - values[row.seed if row.seed in values else None] for row in rows]
    return over_seeds(differences, [row.learning_rate for row in rows])


def table(rows: Sequence[Decay]) -> str:
    """Every method after every attack: means with the leaderboard's intervals, and the change in alignment score.

    Below it are warnings of what has more than 1 % of unscored answers.
    """
    warnings = []
    metrics = [metric for metric in METRICS if any(row.metric == metric for row in rows)]
    lines = [["method", "attack", *(ALL_METRICS[metric].title for metric in metrics), "change", "seeds"]]
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        for done in dict.fromkeys(row.done for row in own):
            of = {metric: [row for row in own if row.done == done and row.metric == metric] for metric in metrics}
            before = [row for row in own if row.done == BEFORE and row.metric == METRICS[0]]
            changed = "–" if done == BEFORE else change(of[METRICS[0]], before).shown()
            seeds = str(sum(row.seed is not None for row in of[METRICS[0]]))
            name = done[0] if not done[1] else f"{done[0]}:{done[1]}"
            lines.append([method, name, *(estimate(of[metric]).shown() for metric in metrics), changed, seeds])
            if (missing := max(row.unscored for row in of[METRICS[0]])) > UNSCORED_FLAG:
                warnings.append(f"! {method}, {name}: up to {100 * missing:.1f} % of a model's answers are unscored.")
    return "\n".join([*fitted(lines), *warnings])


def shown(run: RunFolder) -> str:
    return shown_tables(run, NAME, lambda path: table(read_table(path, Decay)))


def draw(rows: Sequence[Decay], path: Path) -> None:
    """Draw the decay over the number of examples as a PNG, written by rename and the same for the same rows.

    Means over seeds with the leaderboard's intervals; the numbers of examples stand at equal distances.
    """
    attacks = [a for a in ("benign", "harmful") if any(row.attack == a for row in rows)]
    if not attacks:
        path.unlink(missing_ok=True)
        return
    methods = dict.fromkeys(row.method for row in rows if row.method != BASE)
    looks = looks_of([*methods, BASE])
    figure = plot.new_figure(3.6 * len(attacks), 2.8 * len(METRICS))
    grid = figure.subplots(len(METRICS), len(attacks), sharex="col", sharey="row", squeeze=False)
    for line, metric in zip(grid, METRICS, strict=True):
        for axes, attack in zip(line, attacks, strict=True):
            these = [row for row in rows if row.metric == metric and row.attack in (attack, BEFORE[0])]
            _draw_decay(axes, these, looks)
        line[0].set_ylabel(ALL_METRICS[metric].title)
    for axes, attack in zip(grid[-1], attacks, strict=True):
        axes.set_xlabel(f"{attack} examples of further fine-tuning")
    plot.add_legend(figure, plot.handles_of(looks), columns=4)
    plot.save(figure, path)


def _draw_decay(axes: Any, rows: Sequence[Decay], looks: Mapping[str, Look]) -> None:
    """One metric over the examples of one attack, a line for every method."""
    examples = sorted({row.examples or 0 for row in rows})
    for method, look in looks.items():
        found = {n: [row for row in rows if row.method == method and (row.examples or 0) == n] for n in examples}
        points = {examples.index(n): estimate(these) for n, these in found.items() if these}
        plot.draw_means(axes, list(points), list(points.values()), look)
    axes.set_xticks(range(len(examples)), labels=map(str, examples))
    plot.draw_grid(axes)
