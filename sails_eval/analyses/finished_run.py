"""The models behind a finished run's leaderboard, for analyses of them."""

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from sails_eval.boards.leaderboard import ALIGNMENT, CellKey, Scores, Tested, headline, scores_by_cell, tested, unscored
from sails_eval.boards.rate_choice import Choice
from sails_eval.boards.table import MIN_SEEDS
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.files import read_table
from sails_eval.core.records import BASE, Result
from sails_eval.core.stats import Interval, Sample
from sails_eval.core.tables import Table
from sails_eval.core.version import __version__
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.plan.prepare import prepare
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.match_budgets import matched
from sails_eval.run.tuning import settled
from sails_eval.run.workers import workers
from sails_eval.tasks.library import find_tasks

log = logging.getLogger(__name__)

CODE = {"version", "environment", "recipes", "learning_rates", "judge"}
"""What of an identity another version of this package changes by itself."""


@dataclass(frozen=True)
class SelectedModel:
    """A model on the leaderboard: a method's cell of one seed, at the rate where it is tested, or the base model."""

    method: str
    cell: Cell | None = None
    checkpoint: Path | None = None

    @property
    def seed(self) -> int | None:
        return self.cell.seed if self.cell else None

    @property
    def learning_rate(self) -> float | None:
        return self.cell.learning_rate if self.cell else None

    @property
    def is_adapter(self) -> bool:
        return self.checkpoint is not None and (self.checkpoint / CONFIG).is_file()

    @property
    def name(self) -> str:
        """What a file about it is called: `lora/rate-0.001-seed-0`."""
        if self.cell is None:
            return self.method
        return f"{self.method}/rate-{self.cell.learning_rate:g}-seed-{self.cell.seed}"

    @property
    def place(self) -> CellKey:
        """Where its test scores are among the results."""
        return CellKey(self.method, self.seed, self.learning_rate, "test")


@dataclass(frozen=True)
class FinishedRun:
    """One pair at one budget of a finished run; `methods` are those that are looked at."""

    run: RunFolder
    plan: SubRun
    results: tuple[Result, ...]
    choices: Mapping[str, Choice]
    methods: tuple[str, ...]

    @cached_property
    def _scores(self) -> dict[CellKey, dict[str, float]]:
        return headline(self.results, self.plan.named_tasks)

    def score(self, model: SelectedModel, metric: str) -> float:
        return self._scores[model.place][metric]

    def unscored(self, model: SelectedModel) -> float:
        return unscored([self.answered(model)])

    def answered(self, model: SelectedModel) -> Scores:
        """The model's results on the test, by metric and task."""
        return self._answered[model.place]

    @cached_property
    def _answered(self) -> dict[CellKey, Scores]:
        return scores_by_cell(self.results, self.plan.named_tasks)

    @cached_property
    def models(self) -> list[SelectedModel]:
        """The base model, then every trained method's cell of every seed whose checkpoint is kept."""
        return [SelectedModel(BASE), *(one for one in self._on_board if one.checkpoint and one.checkpoint.is_dir())]

    def warn_of_missing(self) -> None:
        wanted, kept = (Counter(one.method for one in these) for these in (self._on_board, self.models))
        for method, n in wanted.items():
            if kept[method] < n:
                log.warning(
                    "%s: the checkpoints of %d of %d seeds were not kept, so these seeds are left out; to include "
                    "them, repeat the run with another --out and without --keep none",
                    method,
                    n - kept[method],
                    n,
                )

    @cached_property
    def _on_board(self) -> list[SelectedModel]:
        cells = [
            cell
            for recipe in self.plan.recipes
            if recipe.name in self.methods
            for cell in self.plan.cells(recipe)
            if cell.seed in self.plan.seeds and cell.learning_rate == self.choices[recipe.name].rate_of(cell.seed)
        ]
        return [SelectedModel(cell.recipe.name, cell, self.run.cell(cell).checkpoint) for cell in cells]


def finished_runs(path: Path, methods: Sequence[str] = ()) -> list[FinishedRun]:
    """The sub-runs of a finished run, checked against what determines them now; no `methods` means all.

    Another version of this package causes a warning only. Raises UserError where the folder is not that of a run, the
    run is not finished, has no such method, or its inputs have changed.
    """
    run = RunFolder(path)
    if not run.exists or run.description().config is None:
        raise UserError(
            f"{path}: not the folder of a comparison (no run.json with its configuration); give the folder that "
            "'sails-eval compare' wrote"
        )
    config = run.description().asked(run.description_file)
    plan = prepare(config, anew=False)
    if config.match_params or config.match != "tokens":  # ranks and tokens that only a worker can tell
        with workers(1, quiet=True) as pool:
            plan = matched(plan, pool, run)
    trained = tuple(recipe.name for recipe in plan.sub_runs[0].recipes)
    for name in methods:
        if name not in trained:
            raise unknown(f"trained method of {path}", name, trained)
    return [_finished(run.sub_run(one), one, tuple(methods) or trained) for one in plan.sub_runs]


def _finished(run: RunFolder, plan: SubRun, methods: tuple[str, ...]) -> FinishedRun:
    results, described = tuple(run.results()), run.description()
    changed = described.identity.differences(plan.identity)
    if described.version != __version__:
        log.warning("%s was made with sails-eval %s; this is %s", run.path, described.version, __version__)
        changed = [key for key in changed if key.partition(".")[0] not in CODE]
    if changed:
        raise UserError(
            f"{run.path}: {', '.join(changed)} changed since the run; restore what it used, or repeat the run "
            "with another --out"
        )
    # cells are called as the run called them; new answers are judged by the judge of today
    identity = described.identity.model_copy(update={"judge": plan.identity.judge})
    plan, choices = settled(run, replace(plan, identity=identity)), run.choices(plan.named_tasks)
    failed = run.failed().rows if run.failed.exists else {}
    for name in sorted(set(methods) & failed.keys()):
        log.warning("%s: left out, since it has no score: %s", name, failed[name])
    methods = tuple(name for name in methods if name not in failed)
    plan = replace(plan, recipes=tuple(recipe for recipe in plan.recipes if recipe.name not in failed))
    for recipe in plan.recipes:
        if recipe.name not in choices or choices[recipe.name].learning_rate not in plan.rates(recipe):
            raise UserError(
                f"{run.chosen.path}: no learning rate at which '{recipe.name}' was trained; delete the file and "
                "give the command of the run again"
            )
    return FinishedRun(run, plan, results, choices, methods)


def over_seeds(values: Sequence[float], rates: Sequence[float | None]) -> Interval:
    """The mean of one value per seed with Student's 95 % interval; of fewer than MIN_SEEDS there is none (NaN).

    As on the leaderboard, where seeds whose rates differ are also correlated, which makes the interval wider.
    """
    if len(values) < MIN_SEEDS:
        return Interval(fmean(values), math.nan, math.nan)
    sample = Sample((tuple(values),), tuple(range(len(values))), (len(set(rates)) > 1,))
    return sample.mean().interval()


def shown_tables(run: RunFolder, name: str, table: Callable[[Path], str]) -> str:
    """The tables that an analysis made of a run, or of each of its sub-runs; empty where nothing was measured."""
    return "\n\n".join(
        f"{name.capitalize()}{f', {title}' if title else ''}\n{table(files.table)}"
        for title, files in run.analyses(name)
    )


def measured_rows(run: RunFolder, name: str, row: type[Any]) -> Table:
    """The rows of an analysis's own file, of the run's sub-runs together; only for programs."""
    found = [(title, read_table(files.table, row)) for title, files in run.analyses(name)]
    return Table([], [{"run": title, **asdict(one)} for title, rows in found for one in rows])


def read_tested(
    *runs: RunFolder, include: Sequence[Path] = (), metrics: Sequence[str] = ALIGNMENT
) -> dict[str, Tested]:
    """Every row's scores on the test in some metrics, from the results of finished runs of one pair each.

    Raises UserError where these or one of their tasks cannot be found.
    """
    found = {str(run.path): [row for row in run.results() if row.metric in metrics] for run in runs}
    known = find_tasks(tuple(include))
    for run, results in zip(runs, found.values(), strict=True):
        if strange := sorted({row.task for row in results} - known.keys()):
            raise unknown(f"task of {run.results_file}", strange[0], known)
    tasks = {row.task: known[row.task] for results in found.values() for row in results}
    choices = [run.choices(tasks) for run in runs]
    return tested(found, tasks, {method: [of_one[method] for of_one in choices] for method in choices[0]})
