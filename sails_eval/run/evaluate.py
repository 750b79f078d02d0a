"""The stages alone: train one cell, or evaluate one adapter or model."""

import logging
import shutil
from pathlib import Path

from sails_eval.boards.facts import RowFacts
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.device import on_device
from sails_eval.core.errors import UserError
from sails_eval.core.files import check_folder
from sails_eval.core.progress import bar, heard, say
from sails_eval.core.records import BASE
from sails_eval.models.engines import CHAT, OPENAI
from sails_eval.plan import checks
from sails_eval.plan.prepare import prepare_evaluation, prepare_training
from sails_eval.run import stages
from sails_eval.run.check import fitted
from sails_eval.run.folder.description import describe
from sails_eval.run.folder.mend import mend
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.records import TrainRecord
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.header import describe_evaluation, describe_training, line, say_all
from sails_eval.run.outlook import TrainingBar
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.runner import Evaluator, check_engine
from sails_eval.run.workers import hosts, workers

log = logging.getLogger(__name__)

SAMPLE = 16
"""How many of the base model's answers to each task an adapter's are compared with."""


@on_device
def train_one(config: CompareConfig, *, seed: int, out: Path, quiet: bool = True) -> TrainRecord:
    """Train one cell of the one method in `config` into `out`/checkpoint; what its train.json says.

    Where `config` has no learning rate, it is the geometric middle of the recipe's span. Raises UserError on bad input.
    """
    for key in ("match", "match_params", "checkpoints"):
        if getattr(config, key) != CompareConfig.model_fields[key].default:
            raise UserError(f"key '{key}' is for comparisons only; leave it out for train, or use compare")
    one = prepare_training(config)
    (recipe,) = one.recipes
    check_folder(out)
    cell, run, folder = one.cell(recipe, one.rates(recipe)[0], seed), RunFolder(out), ModelFolder(out)
    begun = (folder.partial, run.subspace(recipe.name).parent)
    if out.is_dir() and any(path not in begun for path in out.iterdir()):
        raise UserError(f"--out {out}: the folder is not empty; give a new one")
    for leftover in begun:  # of the same command, which was stopped
        shutil.rmtree(leftover, ignore_errors=True)
    with workers(1, quiet=True) as pool:
        one = fitted(one, pool)
        say_all(describe_training(one, cell, run), quiet=quiet)
        checked = pool.run(checks.check_training, one)
        for note in (*checked.beware, *checked.notes):
            log.warning(note)
        say(line("device", pool.run(checks.device, one)), quiet=quiet)
        if recipe.init:
            pool.run(stages.find_subspace, stages.StartJob(one.pair, recipe, (cell.start_seed,), run))
        with bar("training", 1, quiet=quiet) as trained, heard(TrainingBar(trained).hear):
            pool.run(stages.train, stages.TrainJob(one.pair, cell, folder, run))
    return folder.record()


@on_device
def evaluate(config: CompareConfig, target: str, *, name: str | None = None, quiet: bool = False) -> Path:
    """Evaluate an adapter on the pair's base model, or another model; returns the folder with its leaderboard.csv.

    A folder with adapter_config.json is an adapter; anything else is a model as compare's --reference takes it, which
    takes the place of the pair's.
    """
    plan = prepare_evaluation(config, target=target, name=name)
    from sails_eval.run.report.report import write_report  # draws pictures: slow to import

    (row,) = plan.references
    method = row.name
    run = RunFolder(config.out or Path("runs") / f"{method}-{plan.fingerprint[:8]}")
    run.check(plan.identity)
    say_all(describe_evaluation(plan, method, run), quiet=quiet)
    with workers(1, quiet=quiet) as pool, hosts(quiet=quiet) as engines:
        pool.run(checks.check_judge if row.chats else checks.check_evaluation, plan)
        if plan.engine.partition(":")[0] not in (CHAT, OPENAI):  # those are somewhere else
            say(line("device", pool.run(checks.device, plan)), quiet=quiet)
        check_engine(pool, engines, plan)
        with run.opened(plan.config, describe(plan)) as described:
            mend(run)
            subject = stages.Subject(method, run.evaluated, row.checkpoint, served_as=name)
            evaluator = Evaluator(plan, run, pool, engines, quiet)
            outcome = Outcome(
                plan,
                evaluator.measure([subject], "test"),
                {method: RowFacts(row.model)},
                warnings={method: _unchanged(evaluator, subject)} if row.checkpoint else {},
                agreement=evaluator.agreement([subject], "test"),
                members=evaluator.among_members([subject]),
            )
            write_report(run, outcome, described, title=f"Evaluation of {method}")
    return run.path


def _unchanged(evaluator: Evaluator, subject: stages.Subject) -> list[str]:
    """A warning if an adapter seems to do nothing: its first answers to every task are all the base model's own."""
    base = stages.Subject(BASE, evaluator.run.base_sample)
    evaluator.sample(base, SAMPLE)
    if not evaluator.unchanged([subject], base, SAMPLE):
        return []
    told = (
        f"its first {SAMPLE} answers to every task are identical to the base model's, so it learnt almost nothing or "
        "was trained on another base model"
    )
    log.info("%s: %s", subject.method, told)
    return [told]
