"""Cells that fail: the others go on, and the board says why a row has no score."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sails_eval.boards.facts import RowFacts
from sails_eval.core.errors import CellFailed, SystemRefusalError, explained, reason
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import Result
from sails_eval.plan.plan import Cell, SubRun

log = logging.getLogger(__name__)


@contextmanager
def failing() -> Iterator[None]:
    """What goes wrong in the block is the cell's failure, unless the system refused: then it would all others, too."""
    try:
        yield
    except CellFailed:
        raise
    except Exception as error:
        if isinstance(known := explained(error), SystemRefusalError):
            raise known from error
        raise CellFailed(reason(error)) from error


@dataclass(frozen=True)
class Failures:
    """The cells of a sub-run that could not be trained, answered or judged, and why; noted while it is at work.

    They are tried again when the run is resumed.
    """

    reasons: dict[str, str] = field(default_factory=dict)  # by the cell's fingerprint

    def note(self, cells: Sequence[Cell], error: CellFailed) -> None:
        for cell in cells:
            self.reasons[cell.fingerprint] = reason(error)
        first = cells[0]
        where = f"learning rate {first.learning_rate:g}, seed {first.seed}" if len(cells) == 1 else "all its cells"
        log.warning("%s, %s: failed: %s", first.recipe.name, where, reason(error))
        log.info("where it failed:", exc_info=error)

    def of(self, cell: Cell | None) -> bool:
        """Whether the cell failed."""
        return cell is not None and cell.fingerprint in self.reasons

    def left(self, sub_run: SubRun) -> SubRun:
        """The sub-run without the cells that failed."""
        return replace(sub_run, failed=frozenset(self.reasons))

    def told(self, sub_run: SubRun, recipe: Recipe) -> str:
        """Of the cells of a recipe, how many failed, and why the first of them did; '' where none did."""
        cells = replace(sub_run, failed=frozenset()).cells(recipe)
        failed = [cell for cell in cells if self.of(cell)]
        if not failed:
            return ""
        first = failed[0]
        where = f"seed {first.seed} at learning rate {first.learning_rate:g}"
        return f"{len(failed)} of {len(cells)} cells failed, {where}: {self.reasons[first.fingerprint]}"

    def rows(self, sub_run: SubRun, scored: Collection[str]) -> dict[str, str]:
        """The trained rows that have no score, with the reason."""
        unscored = [recipe for recipe in sub_run.recipes if recipe.name not in scored]
        return {recipe.name: self.told(sub_run, recipe) or "no cell could be tested" for recipe in unscored}

    def warnings(self, sub_run: SubRun, scored: Collection[str]) -> dict[str, list[str]]:
        """What the board says of this, by row."""
        found = {
            name: [f"has no score and is in no comparison, since {told}"]
            for name, told in self.rows(sub_run, scored).items()
        }
        for recipe in sub_run.recipes:
            if recipe.name in scored and (told := self.told(sub_run, recipe)):
                found[recipe.name] = [f"learning rates at which a cell failed could not be chosen: {told}"]
        return found


def whole_rates(sub_run: SubRun, recipe: Recipe) -> set[float]:
    """The recipe's learning rates at which none of the cells that choose one has failed."""
    there = {(cell.learning_rate, cell.seed) for cell in sub_run.cells(recipe)}
    return {r for r in sub_run.rates(recipe) if all((r, seed) in there for seed in sub_run.validated_seeds)}


def of_whole_rates(results: Sequence[Result], sub_run: SubRun) -> list[Result]:
    """The results without those at rates at which a cell failed."""
    whole = {recipe.name: whole_rates(sub_run, recipe) for recipe in sub_run.recipes}
    return [row for row in results if row.method not in whole or row.learning_rate in whole[row.method]]


def unscored_facts(sub_run: SubRun, rows: Mapping[str, str]) -> dict[str, RowFacts]:
    """What the board says of rows without a score: nothing of what their training was to take."""
    one = RowFacts(sub_run.pair.name, seeds=len(sub_run.seeds), tuning_trials=sub_run.trials)
    return dict.fromkeys(rows, one)
