"""Rates tuned on seeds of their own, over all organisms of a confirmation together, before any test is answered.

First the grid of each recipe, then two rates beside its best one. Every method gets as many trials.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from sails_eval.boards.leaderboard import CellKey, headline
from sails_eval.core.errors import UserError
from sails_eval.plan.plan import SubRun, Tuning
from sails_eval.run.folder.records import Tuned
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.runner import Evaluator

log = logging.getLogger(__name__)


def tune(evaluators: Sequence[Evaluator], sub_runs: Sequence[SubRun]) -> list[SubRun]:
    """The sub-runs with their rates tuned, those of each budget together; tuning.json says how, in the folder of each.

    Raises UserError where a method has no score, or where tuning came to something else when the run began.
    """
    tuned = list(sub_runs)
    for size in dict.fromkeys(one.size for one in sub_runs):
        places = [place for place, one in enumerate(sub_runs) if one.size == size]
        for _grid_then_beside_its_best in range(2):
            scores = _scores([(evaluators[place], tuned[place]) for place in places])
            if not scores:
                raise UserError("every method failed during tuning, for the reasons above, so there is nothing to test")
            for place in places:
                tuning = tuned[place].tuning
                assert tuning is not None
                tuned[place] = replace(tuned[place], tuning=replace(tuning, scores=scores))
    for evaluator, one in zip(evaluators, tuned, strict=True):
        _keep(evaluator.run, one)
    return tuned


def _scores(organisms: Sequence[tuple[Evaluator, SubRun]]) -> dict[str, dict[float, float]]:
    """The mean alignment score on validation of every method at every place of its grid that is to be tried so far."""
    found: dict[str, dict[float, list[float]]] = {}
    for evaluator, one in organisms:
        cells = [cell for cell in one.all_cells() if cell.seed in one.validated_seeds]
        scores = headline(evaluator.measure(evaluator.subjects(cells), "validation"), one.named_tasks)
        for recipe in one.recipes:
            for place, rate in one.rates_by_place(recipe).items():
                seen = found.setdefault(recipe.name, {}).setdefault(place, [])
                keys = [CellKey(recipe.name, seed, rate, "validation") for seed in one.validated_seeds]
                seen += [scores[key]["alignment_score"] if key in scores else math.nan for key in keys]
    # the last bits of a mean are no reason to prefer a rate
    means = {method: {place: round(fmean(seen), 9) for place, seen in of.items()} for method, of in found.items()}
    lacking = [method for method, of in means.items() if all(map(math.isnan, of.values()))]
    failed = {cell.recipe.name for at, one in organisms for cell in one.all_cells() if not at.stands(cell)}
    if told := [method for method in lacking if method not in failed]:
        raise UserError(
            f"{told[0]}: no learning rate has an alignment score on the validation split, since no answers could be "
            "scored; see why they are unscored in the run's verdicts, and check the judge"
        )
    return {method: of for method, of in means.items() if method not in lacking}


def _keep(run: RunFolder, sub_run: SubRun) -> None:
    assert sub_run.tuning is not None
    now = Tuned(scores={m: dict(of) for m, of in sub_run.tuning.scores.items()}, best=sub_run.tuning.best)
    if not run.tuned.exists:
        if run.test_answers():
            raise UserError(
                f"{run.tuned.path}: missing, although test answers exist already, so learning rates can no longer be "
                "tuned; restore the file, or give another --out"
            )
        now.write(run.tuned.path)
    elif run.tuned().model_dump_json() != now.model_dump_json():
        raise UserError(
            f"{run.tuned.path}: tuning now gives other learning rates than those fixed before the test; restore the "
            "run's files, or give another --out"
        )
    for recipe in sub_run.recipes:
        log.info("%s: tuned to %s", recipe.name, sub_run.tuned(recipe))


def settled(run: RunFolder, sub_run: SubRun) -> SubRun:
    """The sub-run of a finished run, with its rates as they were tuned, if they were."""
    if sub_run.tuning is None:
        return sub_run
    return replace(sub_run, tuning=Tuning(sub_run.tuning.seeds, run.tuned().scores))
