"""Early stopping: every cell is judged after several of its steps, and the best one on validation counts.

A checkpoint is a tuning trial, as a learning rate is one; every method gets as many. Steps are chosen for each cell by
itself, as whoever trains one model does, so a seed's test answers are those of a model that was chosen without them.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import nan

from sails_eval.boards.leaderboard import CellKey, headline
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.runner import Evaluator
from sails_eval.run.stages import Subject


def stop_early(evaluator: Evaluator, sub_run: SubRun, *, keep: str) -> None:
    """Train the cells, judge all their checkpoints on validation, and make each cell's best one its own.

    The other checkpoints are deleted unless `keep` is "all"; answers and verdicts stay.
    """
    folders = [(cell, evaluator.run.cell(cell)) for cell in sub_run.all_cells()]
    open_ones = [(cell, folder) for cell, folder in folders if not folder.stopped.exists]
    evaluator.train([Subject(cell.recipe.name, at, cell=cell) for cell, at in open_ones if not at.trained])
    open_ones = [(cell, folder) for cell, folder in open_ones if evaluator.stands(cell)]
    found = [
        _scores(evaluator, sub_run, open_ones, number) for number in range(sub_run.checkpoints if open_ones else 0)
    ]
    for number, (cell, folder) in enumerate(open_ones):
        if evaluator.stands(cell):
            folder.stop(dict(zip(folder.steps(), (scores[number] for scores in found), strict=True)))
    for folder in (folder for cell, folder in folders if evaluator.stands(cell)):
        folder.take_up()
        if keep != "all":
            folder.drop_other_steps()


def _scores(
    evaluator: Evaluator, sub_run: SubRun, cells: Sequence[tuple[Cell, ModelFolder]], number: int
) -> list[float]:
    """The alignment score on validation of every cell's checkpoint of this number."""
    titled = replace(evaluator, title=f"{evaluator.title}checkpoint {number + 1}/{sub_run.checkpoints}, ")
    steps = [(cell, folder.step(folder.steps()[number])) for cell, folder in cells]
    subjects = [Subject(cell.recipe.name, step, step.checkpoint, cell) for cell, step in steps]
    found = headline(titled.measure(subjects, "validation"), sub_run.named_tasks)
    places = [CellKey(cell.recipe.name, cell.seed, cell.learning_rate, "validation") for cell, _ in cells]
    return [round(found[at]["alignment_score"], 9) if at in found else nan for at in places]  # nan: it failed
