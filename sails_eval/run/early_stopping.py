"""Early stopping: every cell is judged after several of its steps, and the best one on validation counts.

A checkpoint is a tuning trial, as a learning rate is one; every method gets as many. Steps are chosen for each cell by
itself, as whoever trains one model does, so a seed's test answers are those of a model that was chosen without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sails_eval.boards.leaderboard import Cell as Place
from sails_eval.boards.leaderboard import headline
from sails_eval.plan.setup import Cell
from sails_eval.run.folder.checkpoints import STOPPED, drop_others, steps_of, stop, take_up
from sails_eval.run.folder.layout import CHECKPOINT, step_folder
from sails_eval.run.runner import Bench
from sails_eval.run.stages import Subject


def stop_early(bench: Bench, *, keep: str) -> None:
    """Train the cells, judge all their checkpoints on validation, and make each cell's best one its own.

    The other checkpoints are deleted unless `keep` is "all"; answers and verdicts stay.
    """
    folders = {cell.folder: bench.run / cell.folder for cell in bench.setup.all_cells()}
    cells = [cell for cell in bench.setup.all_cells() if not (folders[cell.folder] / STOPPED).exists()]
    untrained = [cell for cell in cells if not (folders[cell.folder] / "train.json").exists()]
    bench.train([Subject(cell.recipe.name, folders[cell.folder], cell=cell) for cell in untrained])
    found = [_scores(bench, cells, number) for number in range(bench.setup.checkpoints if cells else 0)]
    for cell in cells:
        scores = [of_cells[cell.folder] for of_cells in found]
        stop(folders[cell.folder], dict(zip(steps_of(folders[cell.folder]), scores, strict=True)))
    for folder in folders.values():
        take_up(folder)
        if keep != "all":
            drop_others(folder)


def _scores(bench: Bench, cells: Sequence[Cell], number: int) -> dict[str, float]:
    """The alignment score on validation of every cell's checkpoint of this number, by the cell's folder."""
    titled = replace(bench, title=f"{bench.title}checkpoint {number + 1}/{bench.setup.checkpoints}, ")
    results = titled.measure([_subject(cell, bench.run / cell.folder, number) for cell in cells], "validation")
    found = headline(results, {task.name: task for task in bench.setup.tasks})
    places = {cell.folder: Place(cell.recipe.name, cell.seed, cell.learning_rate, "validation") for cell in cells}
    return {folder: round(found[place]["alignment_score"], 9) for folder, place in places.items()}


def _subject(cell: Cell, folder: Path, number: int) -> Subject:
    place = step_folder(folder, steps_of(folder)[number])
    return Subject(cell.recipe.name, place, place / CHECKPOINT, cell)
