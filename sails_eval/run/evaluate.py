"""The stages alone: train one cell, or evaluate one adapter or model."""

import logging
from dataclasses import replace
from pathlib import Path

from sails_eval.boards.leaderboard import RowFacts
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.records import BASE
from sails_eval.models.engines import OPENAI
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.plan import checks
from sails_eval.plan.identity import Identity, training_identity
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.plan.prepare import prepare_evaluation
from sails_eval.plan.references import reference
from sails_eval.plan.resolve import load_methods, resolve_pair, with_pinned_data
from sails_eval.run import stages
from sails_eval.run.folder.description import describe
from sails_eval.run.folder.records import TrainRecord
from sails_eval.run.folder.run_folder import ModelFolder, RunFolder
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.report.report import write_report
from sails_eval.run.runner import Evaluator, check_engine
from sails_eval.run.workers import hosts, workers
from sails_eval.tasks.sharing import check_sending

log = logging.getLogger(__name__)

SAMPLE = 16
"""How many of the base model's answers to each task an adapter's are compared with."""


def train_one(config: CompareConfig, *, rate: float | None, seed: int, out: Path) -> TrainRecord:
    """Train one cell of the one method in `config` into `out`/checkpoint; what its train.json says.

    Without a rate it is the geometric middle of the recipe's span. Raises UserError on bad input.
    """
    for key in ("match", "match_params", "checkpoints"):
        if getattr(config, key) != CompareConfig.model_fields[key].default:
            raise UserError(f"key '{key}' is about comparisons; leave it out for train, or use compare")
    ((recipe,), _) = load_methods(config)
    pair = with_pinned_data(resolve_pair(config))
    identity = training_identity(pair, (recipe,))
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: not empty; give another --out")
    one = SubRun(pair, identity=Identity(training=identity), recipes=(recipe,), seeds=1, learning_rates=1)
    cell, run, folder = Cell(recipe, rate or one.rates(recipe)[0], seed, ""), RunFolder(out), ModelFolder(out)
    with workers(1, quiet=True) as pool:
        pool.run(checks.check_training, one)
        if recipe.init:
            pool.run(stages.find_subspace, (pair, recipe, run))
        pool.run(stages.train, stages.TrainJob(pair, cell, folder, run))
    return folder.record()


def evaluate(config: CompareConfig, target: str, *, name: str | None = None, quiet: bool = False) -> Path:
    """Evaluate an adapter on the pair's base model, or a model of its own; the folder with its leaderboard.csv.

    A folder with adapter_config.json is an adapter; anything else is a model as compare's --reference takes it, which
    takes the place of the pair's.
    """
    adapter = (Path(target) / CONFIG).is_file()
    if config.pair is None and config.model is None and target.startswith(f"{OPENAI}:"):
        raise UserError(f"{target} is evaluated on a pair's tasks; give --pair NAME")
    if config.pair is None and config.model is None and adapter:
        raise UserError(f"{target} is an adapter; say on which model: --pair NAME or --model MODEL")
    if config.pair is None and not adapter:
        config = config.model_copy(update={"model": target})
    plan = prepare_evaluation(config, target=None if adapter else target)
    row = reference(target, plan.pair, plan.engine, name=name)
    if row.chats:
        check_sending(plan.tasks, row.model, config.send_to)
    own = {"checkpoint" if row.checkpoint else "model": row.identity}
    identity = plan.identity.model_copy(update=own)
    plan = replace(plan, pair=row.pair, engine=row.engine, tasks=row.tasks(plan.tasks), identity=identity)
    method = row.name
    run = RunFolder(config.out or Path("runs") / f"{method}-{plan.fingerprint[:8]}")
    run.check(plan.identity)
    with workers(1, quiet=quiet) as pool, hosts(quiet=quiet) as engines:
        pool.run(checks.check_judge if row.chats else checks.check_evaluation, plan)
        check_engine(pool, engines, plan)
        with run.opened(config, describe(plan)) as described:
            subject = stages.Subject(method, run.evaluated, row.checkpoint, served_as=name)
            evaluator = Evaluator(plan, run, pool, engines, quiet)
            outcome = Outcome(
                plan,
                evaluator.measure([subject], "test"),
                {method: RowFacts(row.model)},
                warnings={method: _unchanged(evaluator, subject)} if row.checkpoint else {},
                agreement=evaluator.agreement([subject], "test"),
                panel=evaluator.panel_agreement([subject]),
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
        f"its first {SAMPLE} answers to every task are the base model's own, so it learnt next to nothing or was "
        "trained on another base model"
    )
    log.warning("%s: %s", subject.method, told)
    return [told]
