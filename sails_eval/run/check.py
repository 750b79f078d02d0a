"""Whether a plan can work here, as far as that takes a model: looked at before anything is trained or written."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.files import check_folder
from sails_eval.models.engines import OPENAI
from sails_eval.plan import checks
from sails_eval.plan.checks import Checked, check, check_examples, check_reference
from sails_eval.plan.plan import Plan, SubRun
from sails_eval.plan.preflight import is_large
from sails_eval.plan.prepare import prepare
from sails_eval.plan.problems import Problem, Problems, if_it_can
from sails_eval.run.folder.reuse import check_sealed, check_untouched
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.runner import check_engine
from sails_eval.run.workers import Hosts, Workers, late


def check_machine(plan: Plan, pool: Workers) -> Plan:
    """The plan of a comparison of large models with micro-batches that fit, where its pairs leave these open.

    Raises UserError where memory or disk surely do not suffice.
    """
    if not any(is_large(one.pair) for one in plan.sub_runs):
        return plan
    pairs = pool.run(late, ("sails_eval.plan.cost.forecast:check_machine", (plan.sub_runs,)))
    return replace(plan, sub_runs=tuple(one.run_as(pair) for one, pair in zip(plan.sub_runs, pairs, strict=True)))


def fitted(sub_run: SubRun, pool: Workers) -> SubRun:
    """One sub-run likewise, by its recipes alone."""
    if not is_large(sub_run.pair):
        return sub_run
    job = sub_run.pair, sub_run.recipes
    return sub_run.run_as(pool.run(late, ("sails_eval.plan.cost.fitting:fit_here", (job,))))


def check_plan(plan: Plan, run: RunFolder, old: RunFolder | None, pool: Workers, hosts: Hosts) -> list[Checked]:
    """See that the run's folder is free or its own, and that models, data, judge and engine do what is asked of them.

    Returns what was found of each sub-run's training data. Raises UserError for what does not.
    """
    _check_folders(plan, run, old)
    checked = [pool.run(check, one) for one in plan.sub_runs]
    for one, found in zip(plan.sub_runs, checked, strict=True):
        check_examples(one, found)
    for one in plan.sub_runs:
        for row in one.references:
            pool.run(check_reference, (one, row))
        check_engine(pool, hosts, one)
    return checked


def _check_folders(plan: Plan, run: RunFolder, old: RunFolder | None) -> None:
    run.check_protocol(plan.protocol)
    run.check(plan.identity)
    for one in plan.sub_runs:
        run.sub_run(one).check(one.identity)
    if old is not None:
        check_sealed(old, plan)
    if plan.protocol:
        check_untouched(run)


def check_place(config: CompareConfig, against: Path | None) -> None:
    """See for `plan` that the run's folder is free or its own, and the earlier run finished, as far as can be told.

    The identity of a run that matches something else than tokens takes a model. Raises UserError as `compare` does.
    """
    if config.out:
        check_folder(config.out)
    plan = if_it_can(prepare, config, anew=False)  # what is wrong with it, the forecast tells
    if plan is not None and config.match == "tokens" and not config.match_params:
        _check_folders(plan, RunFolder(plan.folder), RunFolder(against) if against else None)


def refusals(config: CompareConfig, told: Collection[str]) -> list[Problem]:
    """What `compare` would refuse once it has loaded the models, besides what was `told`; nothing of those that are
    large or not here."""
    problems = Problems()
    plan = if_it_can(prepare, config, anew=False)
    for one in plan.sub_runs if plan else ():
        if not is_large(one.pair):
            found = problems.attempt(check, one)
            problems.attempt(check_examples, one, found) if found else None
        for row in one.references:
            if row.chats or not is_large(row.pair):
                problems.attempt(check_reference, (one, row))
        if one.engine.startswith(OPENAI):
            problems.attempt(checks.check_engine, one)
    return [problem for problem in problems.different if problem.told not in told]
