"""The cells that a finished run's leaderboard stands on, and their checkpoints, for what is measured afterwards."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sails_eval.boards.leaderboard import Cell as Place
from sails_eval.boards.leaderboard import Scores, Tested, choose_rates, headline, scores_by_cell, tested, unscored
from sails_eval.boards.scoring import read_results
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.records import BASE, Result
from sails_eval.core.schema import validate
from sails_eval.core.stats import Interval, Sample
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.plan.parts import Part, placed, resolve_parts
from sails_eval.plan.setup import Cell
from sails_eval.run.folder.description import differences, open_run
from sails_eval.run.folder.layout import CHECKPOINT, DESCRIPTION, read_description
from sails_eval.run.match_budgets import matched
from sails_eval.run.workers import workers
from sails_eval.tasks.library import find_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
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


@dataclass(frozen=True)
class FinishedPart:
    """One pair at one budget of a finished run, in its folder; `methods` are those that are looked at."""

    folder: Path
    part: Part
    results: tuple[Result, ...]
    methods: tuple[str, ...]

    @property
    def title(self) -> str:
        """What tells it from other parts; empty where it is the whole run."""
        return self.part.folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process is at work in the folder inside the block. Raises UserError where one is."""
        with open_run(self.folder, self.part.config, {"identity": self.part.setup.identity}):
            yield

    @cached_property
    def scores(self) -> dict[Place, dict[str, float]]:
        """The headline metrics of everything that was tested."""
        return headline(self.results, {task.name: task for task in self.part.setup.tasks})

    def score(self, chosen: Chosen, metric: str) -> float:
        """A metric of a model on the test."""
        return self.scores[Place(chosen.method, chosen.seed, chosen.learning_rate, "test")][metric]

    def unscored(self, chosen: Chosen) -> float:
        """The share of its judged test answers that have no verdict."""
        return unscored([self._answered[Place(chosen.method, chosen.seed, chosen.learning_rate, "test")]])

    @cached_property
    def _answered(self) -> dict[Place, Scores]:
        return scores_by_cell(self.results, {task.name: task for task in self.part.setup.tasks})

    @cached_property
    def chosen(self) -> list[Chosen]:
        """The base model, then every trained method's cell of every seed whose checkpoint is kept."""
        return [Chosen(BASE), *(one for one in self._on_board if one.checkpoint and one.checkpoint.is_dir())]

    def warn_of_missing(self) -> None:
        """Log whose checkpoints are not there."""
        wanted, kept = (Counter(one.method for one in these) for these in (self._on_board, self.chosen))
        for method, n in wanted.items():
            if kept[method] < n:
                log.warning(
                    "%s: the checkpoints of %d of %d seeds are not kept, so these are left out; for them make "
                    "the run anew, with another --out and without --keep none",
                    method,
                    n - kept[method],
                    n,
                )

    @cached_property
    def _on_board(self) -> list[Chosen]:
        setup = self.part.setup
        choices = choose_rates(self.results, {task.name: task for task in setup.tasks})
        cells = [
            cell
            for recipe in setup.recipes
            if recipe.name in self.methods
            for cell in setup.cells(recipe)
            if cell.learning_rate == choices[recipe.name].rate_of(cell.seed)
        ]
        return [Chosen(cell.recipe.name, cell, self.folder / cell.folder / CHECKPOINT) for cell in cells]


def finished_parts(run: Path, methods: Sequence[str] = ()) -> list[FinishedPart]:
    """The parts of a finished run, checked against what determines them here and now; no `methods` means all.

    Raises UserError where the folder is none of a run, the run is not finished, has no such method, or what it is made
    of has changed.
    """
    if not (run / DESCRIPTION).is_file() or "config" not in (described := read_description(run)):
        raise UserError(f"{run}: not the folder of a comparison (no {DESCRIPTION} with its configuration)")
    config = validate(CompareConfig, described["config"], where=str(run / DESCRIPTION))
    parts = resolve_parts(config)
    if config.match_params or config.match != "tokens":  # ranks and tokens that only a worker can tell
        with workers(1, quiet=True) as pool:
            parts = matched(parts, run, pool)
    trained = tuple(recipe.name for recipe in parts[0].setup.recipes)
    for name in methods:
        if name not in trained:
            raise unknown(f"trained method of {run}", name, trained)
    return [_finished(placed(run, part), part, tuple(methods) or trained) for part in parts]


def _finished(folder: Path, part: Part, methods: tuple[str, ...]) -> FinishedPart:
    path = folder / "results.csv"
    if not path.is_file():
        raise UserError(f"{folder}: no results.csv; the comparison is not finished: give its own command again first")
    if changed := differences(read_description(folder)["identity"], part.setup.identity):
        raise UserError(
            f"{folder}: {', '.join(changed)} is not what the run was made with; go back to that, or make the run anew"
        )
    return FinishedPart(folder, part, tuple(read_results(path)), methods)


def over_seeds(values: Sequence[float], rates: Sequence[float | None]) -> Interval:
    """The mean of one value per seed with Student's 95 % interval; of one value alone there is none (NaN).

    As on the leaderboard, seeds whose rates differ hang together, and the interval is wider for it.
    """
    if len(values) < 2:
        return Interval(values[0], float("nan"), float("nan"))
    sample = Sample((tuple(values),), tuple(range(len(values))), (len(set(rates)) > 1,))
    return sample.mean().interval()


def read_tested(run: Path, include: Sequence[Path] = ()) -> dict[str, Tested]:
    """Every row's scores on the test, from the results.csv of one pair's finished run.

    Raises UserError where the file or one of its tasks cannot be found.
    """
    path = run / "results.csv"
    results = [row for row in read_results(path) if row.metric in ("safety_rate", "helpfulness")]
    known = find_tasks(tuple(include))
    if strange := sorted({row.task for row in results} - known.keys()):
        raise unknown(f"task of {path}", strange[0], known)
    tasks = {row.task: known[row.task] for row in results}
    choices = choose_rates(results, tasks)
    return tested({run.name: results}, tasks, {method: [choice] for method, choice in choices.items()})
