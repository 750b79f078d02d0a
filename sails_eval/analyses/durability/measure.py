"""How long alignment lasts: the chosen models of a finished run fine-tuned further, in 4 bits and merged.

Every attacked model answers the test's harmful and safe tasks again and is judged by the run's judge, by the same
stages as in the run. Its weights are never kept; what is published are the scores.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sails_eval.analyses.durability.attacks import DEFAULT, Attack, Attacked
from sails_eval.analyses.durability.report import BEFORE, METRICS, NAME, Decay, draw
from sails_eval.analyses.durability.worker import answer, check_data
from sails_eval.analyses.finished_run import FinishedRun, SelectedModel, finished_runs
from sails_eval.boards.leaderboard import Scores, Tested, headline, scores_by_cell, unscored
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.checksums import write_checked
from sails_eval.core.errors import UserError
from sails_eval.core.files import table_text
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.records import BASE
from sails_eval.data.reading import pinned
from sails_eval.models.engines import HF
from sails_eval.models.identity import model_identity
from sails_eval.plan import checks
from sails_eval.plan.plan import EvaluationPlan, SubRun
from sails_eval.run.check import fitted
from sails_eval.run.folder.analysis_files import AnalysisFiles
from sails_eval.run.folder.mend import mend_model
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.runner import Evaluator
from sails_eval.run.workers import hosts, workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Victim:
    """A model that is attacked: one of a run, and the seed that draws the examples to fine-tune on, if any.

    The base model is one model, but fine-tuned once for every seed; what is in its place on the table is `seed`.
    """

    model: SelectedModel
    attack: Attack
    seed: int | None


def durability(
    run: Path, asked: Sequence[str] = (), methods: Sequence[str] = (), *, jobs: int = 1, quiet: bool = False
) -> list[Path]:
    """Attack the chosen cells of a finished run whose checkpoints are kept; the durability.csv of every sub-run.

    `asked` is as `Attack.parse` takes it; nothing means all of `DEFAULT` that the pair's data and this machine allow.
    They have the base model and `methods`, all of the run's where there are none. What was answered before stays.
    Raises UserError where the run is not as it was, or an attack cannot be done.
    """
    _clear(RunFolder(run))
    attacks = list(dict.fromkeys(Attack.parse(text) for text in asked or DEFAULT))
    runs = [_prepared(one) for one in finished_runs(run, methods)]
    possible = [_possible(one.plan, attacks, choosy=bool(asked)) for one in runs]
    with workers(jobs, quiet=quiet) as pool, hosts(quiet=quiet) as engines:
        runs = [replace(one, plan=fitted(one.plan, pool)) for one in runs]
        for one, these in zip(runs, possible, strict=True):
            pool.run(checks.check_evaluation, one.plan)
            for line in pool.run(check_data, (one.plan, these)):
                log.warning(line)
        files = []
        for one, these in zip(runs, possible, strict=True):
            one.warn_of_missing()
            title = f"{one.plan.folder} " if one.plan.folder else ""
            evaluator = Evaluator(one.plan, one.run, pool, engines, quiet, title, work=answer)
            with one.run.locked():
                rows = [*_before(one), *_after(one, evaluator, these)]
                found = one.run.analysis(NAME)
                write_checked(found.table, table_text(Decay, rows))
                draw(rows, found.picture)
            files.append(found.table)
    return files


def _clear(run: RunFolder) -> None:
    """Delete the weights that a process left which was killed, whatever else is to be said of the run."""
    for one in run.with_sub_runs():
        files = one.analysis(NAME)
        if files.folder.is_dir() and one.exists:
            with one.locked():
                files.drop_retuned()


def _prepared(finished: FinishedRun) -> FinishedRun:
    """The run with data on the hub at today's commit."""
    pair = finished.plan.pair
    pair = pair.model_copy(update={"attack": pair.attack.each(pinned)})
    return replace(finished, plan=replace(finished.plan, pair=pair))


def _possible(plan: SubRun, attacks: Sequence[Attack], *, choosy: bool) -> list[Attack]:
    """The attacks that can be done. Raises UserError for one that cannot and was asked for."""
    found = []
    for attack in attacks:
        obstacle = attack.obstacle(plan.pair)
        if obstacle is None:
            found.append(attack)
        elif choosy:
            raise UserError(f"--attack {attack}: {obstacle}")
        else:
            log.warning("attack %s is left out: %s", attack, obstacle)
    return found


def _before(finished: FinishedRun) -> list[Decay]:
    """What the run itself measured of the models, before any attack."""
    found = [(one, one.seed, finished.answered(one)) for one in finished.models]
    intervals = _intervals(finished, [(one.method, seed, scores) for one, seed, scores in found])
    return [
        Decay(*one.place[:3], *BEFORE, metric, finished.score(one, metric), finished.unscored(one), *ends)
        for one, _, _ in found
        for metric, ends in intervals[one.method].items()
    ]


def _intervals(
    finished: FinishedRun, models: Sequence[tuple[str, int | None, Scores]]
) -> dict[str, dict[str, tuple[float, float]]]:
    """The ends of the intervals of every method's metrics over its models (method, seed, scores)."""
    found = {}
    for method in dict.fromkeys(method for method, _, _ in models):
        of_seeds = [(seed, scores) for one, seed, scores in models if one == method]
        choice = finished.choices.get(method, Choice(method, None))
        row = Tested((tuple(scores for _, scores in of_seeds),), tuple(seed for seed, _ in of_seeds), (choice,))
        intervals = {metric: row.interval(metric) for metric in METRICS}
        found[method] = {metric: (one.low, one.high) for metric, one in intervals.items()}
    return found


def _after(finished: FinishedRun, evaluator: Evaluator, attacks: Sequence[Attack]) -> Iterator[Decay]:
    """Attack, ask and judge everything that is not done yet; the scores."""
    files = finished.run.analysis(NAME)
    tasks = tuple(task for task in evaluator.plan.tasks if task.kind != "capability" and not task.seen_in_training)
    evaluator = replace(evaluator, plan=replace(evaluator.plan, engine=HF, tasks=tasks))
    victims = [victim for attack in attacks for victim in _victims(finished, attack)]
    subjects = [_subject(victim, evaluator.plan, files) for victim in victims]
    for subject in subjects:
        mend_model(subject.folder)
    results, named = evaluator.measure(subjects, "test"), {task.name: task for task in tasks}
    found = {cell.method: metrics for cell, metrics in headline(results, named).items()}
    scores = {cell.method: of_one for cell, of_one in scores_by_cell(results, named).items()}
    for attack in attacks:
        done = [(v, s) for v, s in zip(victims, subjects, strict=True) if v.attack == attack]
        intervals = _intervals(finished, [(v.model.method, v.seed, scores[s.method]) for v, s in done])
        for victim, subject in done:
            one, missing = victim.model, unscored([scores[subject.method]])
            for metric, ends in intervals[one.method].items():
                key = one.method, victim.seed, one.learning_rate, attack.name, attack.examples or None, metric
                yield Decay(*key, found[subject.method][metric], missing, *ends)


def _victims(finished: FinishedRun, attack: Attack) -> Iterator[Victim]:
    """The models that an attack is for.

    The base model is fine-tuned with every seed and quantised, which says what the attack alone does; it has nothing
    to merge, as models trained in full have not.
    """
    for one in finished.models:
        if one.method == BASE and attack.retunes:
            yield from (Victim(one, attack, seed) for seed in finished.plan.seeds)
        elif attack.kind != "merge" or one.is_adapter:
            yield Victim(one, attack, one.seed)


def _subject(victim: Victim, plan: EvaluationPlan, files: AnalysisFiles) -> Attacked:
    """Its folder is named after everything that its answers depend on besides the run's own tasks and settings.

    So is the subject itself: scores are looked up by that.
    """
    one, attack = victim.model, victim.attack
    model = of_path(one.checkpoint) if one.checkpoint else model_identity(plan.pair)
    key = digest([model, attack.identity(plan.pair), victim.seed])
    seeded = "" if one.cell or victim.seed is None else f"/seed-{victim.seed}"
    folder = files.model(f"{attack.folder}/{one.name}{seeded}", key)
    return Attacked(str(folder.path), folder, one.checkpoint, attack=attack, seed=victim.seed or 0)
