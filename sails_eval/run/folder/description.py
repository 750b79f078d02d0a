"""What a run says of itself in its run.json."""

from datetime import date

from sails_eval.core.fingerprint import digest
from sails_eval.core.version import __version__, git_commit
from sails_eval.models.engines import HF
from sails_eval.plan.plan import EvaluationPlan, Plan, SubRun
from sails_eval.run.folder.records import Description


def describe(plan: EvaluationPlan) -> Description:
    """What a run of one pair at one budget, or an evaluation, is. Another engine makes another environment."""
    identity, engine = plan.identity, plan.identity.engine
    environment = identity.environment if plan.engine == HF else [identity.environment, engine]
    return Description(
        run=plan.fingerprint,
        pair=plan.pair.name,
        environment=digest(environment),
        test_set=digest([identity.tasks, plan.limit]),
        budget=_budget(plan),
        date=date.today().isoformat(),
        version=__version__,
        commit=git_commit(),
        identity=identity,
    )


def _budget(plan: EvaluationPlan) -> str:
    """In words."""
    if not isinstance(plan, SubRun):
        return f"{plan.pair.length}, 0 rates, 0 seeds"
    told = [plan.pair.length, f"{plan.trials // plan.checkpoints} rates", f"{len(plan.seeds)} seeds"]
    told += [f"tuned on {len(plan.tuning.seeds)} further seeds"] if plan.tuning else []
    told += [f"{plan.checkpoints} checkpoints"] if plan.checkpoints > 1 else []
    told += [f"{plan.budget.match} matched"] if plan.budget.match != "tokens" else []
    told += ["parameters matched"] if plan.budget.match_params else []
    told += [str(plan.pair.regularise)] if plan.pair.regularise else []
    told += plan.config.in_words
    return ", ".join(told)


def describe_plan(plan: Plan) -> Description:
    """What a whole run is; of several sub-runs it says what its leaderboard says: all pairs at the largest budget."""
    shown = [describe(one) for one in plan.sub_runs if one.size == plan.largest]
    if len(plan.sub_runs) == 1:
        return shown[0]
    budgets = list(dict.fromkeys(one.budget for one in shown))
    budgets += [f"{plan.largest.examples} examples"] if plan.largest.examples else []
    told = {
        "run": plan.identity.fingerprint,
        "pair": ", ".join(one.pair for one in shown),
        "budget": ", ".join(budgets),
        "identity": plan.identity,
    }
    return shown[0].model_copy(update=told)
