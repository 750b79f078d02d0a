"""Whether a plan can work here, as far as that takes a model: looked at before anything is trained or written."""

from dataclasses import replace

from sails_eval.plan.checks import Checked, check, check_examples, check_reference
from sails_eval.plan.plan import Plan, SubRun
from sails_eval.plan.preflight import is_large
from sails_eval.run.folder.reuse import check_sealed
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
    run.check_protocol(plan.protocol)
    run.check(plan.identity)
    for one in plan.sub_runs:
        run.sub_run(one).check(one.identity)
    if old is not None:
        check_sealed(old, plan)
    checked = [pool.run(check, one) for one in plan.sub_runs]
    for one, found in zip(plan.sub_runs, checked, strict=True):
        check_examples(one, found)
    for one in plan.sub_runs:
        for row in one.references:
            pool.run(check_reference, (one, row))
        check_engine(pool, hosts, one)
    return checked
