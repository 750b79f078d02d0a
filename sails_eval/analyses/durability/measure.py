"""How long alignment lasts: the chosen models of a finished run after re-tuning, in 4 bits and merged.

Every attacked model answers the test's harmful and safe tasks again and is judged by the run's judge, by the same
stages as in the run. Its weights are never kept; what is published are the scores.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sails_eval.analyses.durability.attacks import DEFAULT, RETUNED, Attack, Attacked
from sails_eval.analyses.durability.report import COLUMNS, FILE, METRICS, PICTURE, Decay
from sails_eval.analyses.durability.worker import answer, check_data
from sails_eval.analyses.finished_run import Chosen, FinishedPart, finished_parts
from sails_eval.boards.leaderboard import headline, scores_by_cell, unscored
from sails_eval.core.errors import UserError
from sails_eval.core.files import csv_text, write_text
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.records import BASE
from sails_eval.data.reading import pinned
from sails_eval.models.engines import HF
from sails_eval.models.identity import model_identity
from sails_eval.plan import checks
from sails_eval.plan.setup import Setup
from sails_eval.run.folder.description import alone
from sails_eval.run.folder.layout import DESCRIPTION
from sails_eval.run.runner import Bench
from sails_eval.run.workers import hosts, workers
from sails_eval.tasks.sharing import DURABILITY

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Victim:
    """A model that is attacked: a chosen one, and the seed that draws the examples of re-tuning, where there are any.

    The base model is one model, but re-tuned once for every seed; what is in its place on the table is `seed`.
    """

    chosen: Chosen
    attack: Attack
    seed: int | None


def durability(
    run: Path, asked: Sequence[str] = (), methods: Sequence[str] = (), *, jobs: int = 1, quiet: bool = False
) -> list[Path]:
    """Attack the chosen cells of a finished run whose checkpoints are kept; the durability.csv of every part.

    `asked` is as `Attack.parse` takes it; nothing means all of `DEFAULT` that the pair's data and this machine allow.
    They have the base model and `methods`, all of the run's where there are none. What was answered before stays.
    Raises UserError where the run is not as it was, or an attack cannot be done.
    """
    _clear(run)
    attacks = list(dict.fromkeys(Attack.parse(text) for text in asked or DEFAULT))
    parts = [_prepared(part) for part in finished_parts(run, methods)]
    possible = [_possible(part.part.setup, attacks, choosy=bool(asked)) for part in parts]
    with workers(jobs, quiet=quiet) as pool, hosts(quiet=quiet) as engines:
        for part, these in zip(parts, possible, strict=True):
            pool.run(checks.check_evaluation, part.part.setup)
            for line in pool.run(check_data, (part.part.setup, these)):
                log.warning(line)
        files = []
        for part, these in zip(parts, possible, strict=True):
            part.warn_of_missing()
            title = f"{part.title} " if part.title else ""
            bench = Bench(part.part.setup, part.folder, pool, engines, quiet, title, work=answer)
            with part.locked():
                rows = [*_before(part), *_after(part, bench, these)]
                files.append(_write(part.folder, rows))
    return files


def _clear(run: Path) -> None:
    """Delete the weights that a process left which was killed, whatever else is to be said of the run."""
    for folder in {path.parent for path in run.rglob(DURABILITY) if (path.parent / DESCRIPTION).is_file()}:
        with alone(folder):
            for leftover in (folder / DURABILITY).rglob(RETUNED):
                shutil.rmtree(leftover)


def _prepared(part: FinishedPart) -> FinishedPart:
    """The part with data on the hub at today's commit."""
    setup = part.part.setup
    given = {key: value for key, value in setup.pair.attack if value is not None}
    attack = setup.pair.attack.model_copy(update={key: pinned(value) for key, value in given.items()})
    setup = replace(setup, pair=setup.pair.model_copy(update={"attack": attack}))
    return replace(part, part=replace(part.part, setup=setup))


def _possible(setup: Setup, attacks: Sequence[Attack], *, choosy: bool) -> list[Attack]:
    """The attacks that can be done. Raises UserError for one that cannot and was asked for."""
    found = []
    for attack in attacks:
        obstacle = attack.obstacle(setup.pair)
        if obstacle is None:
            found.append(attack)
        elif choosy:
            raise UserError(f"--attack {attack}: {obstacle}")
        else:
            log.warning("%s is left out: %s", attack, obstacle)
    return found


def _before(part: FinishedPart) -> list[Decay]:
    """What the run itself measured of the models, before any attack."""
    return [
        Decay(one.method, one.seed, one.learning_rate, "none", 0, metric, part.score(one, metric), part.unscored(one))
        for one in part.chosen
        for metric in METRICS
    ]


def _after(part: FinishedPart, bench: Bench, attacks: Sequence[Attack]) -> list[Decay]:
    """Attack, ask and judge everything that is not done yet; the scores."""
    root = part.folder / DURABILITY
    tasks = tuple(task for task in bench.setup.tasks if task.kind != "capability" and not task.seen_in_training)
    bench = replace(bench, setup=replace(bench.setup, engine=HF, tasks=tasks))
    victims = [victim for attack in attacks for victim in _victims(part, attack)]
    subjects = [_subject(victim, bench.setup, root) for victim in victims]
    results, named = bench.measure(subjects, "test"), {task.name: task for task in tasks}
    found = {cell.method: metrics for cell, metrics in headline(results, named).items()}
    missing = {cell.method: unscored([scores]) for cell, scores in scores_by_cell(results, named).items()}
    rows = []
    for victim, subject in zip(victims, subjects, strict=True):
        one, examples = victim.chosen, victim.attack.examples or None
        for metric in METRICS:
            key = one.method, victim.seed, one.learning_rate, victim.attack.name, examples, metric
            rows.append(Decay(*key, found[subject.method][metric], missing[subject.method]))
    return rows


def _victims(part: FinishedPart, attack: Attack) -> list[Victim]:
    """The models that an attack is for.

    The base model is re-tuned with every seed and quantised, which says what the attack alone does; it has nothing to
    merge, as models trained in full have not.
    """
    found = []
    for one in part.chosen:
        if attack.kind == "merge" and not one.is_adapter:
            continue
        seeds: Sequence[int | None] = (one.seed,)
        if one.method == BASE and attack.retunes:
            seeds = range(part.part.setup.seeds)
        found += [Victim(one, attack, seed) for seed in seeds]
    return found


def _subject(victim: Victim, setup: Setup, root: Path) -> Attacked:
    """Its folder is called after all that its answers hang on besides the run's own tasks and settings.

    So is the subject itself: scores are looked up by that.
    """
    one, attack = victim.chosen, victim.attack
    model = of_path(one.checkpoint) if one.checkpoint else model_identity(setup.pair)
    key = digest([model, attack.identity(setup.pair), victim.seed])
    seeded = "" if one.cell or victim.seed is None else f"/seed-{victim.seed}"
    name = f"{attack.folder}/{one.name}{seeded}-{key[:8]}"
    return Attacked(name, root / name, one.checkpoint, attack=attack, seed=victim.seed or 0)


def _write(folder: Path, rows: Sequence[Decay]) -> Path:
    """Write durability.csv and its picture, the same bytes for the same rows."""
    from sails_eval.analyses.durability.report import draw

    path = folder / FILE
    write_text(path, csv_text(COLUMNS, [row.cells() for row in rows]))
    draw(rows, folder / PICTURE)
    return path
