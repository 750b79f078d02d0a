"""From what the user asked for to a plan of all that will be done: every noun resolved once, every problem told.

Nothing here trains, loads a model or torch, or takes long.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import BASE
from sails_eval.core.version import __version__
from sails_eval.judges.calibration import note_on
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.judges.spec import trusting
from sails_eval.methods.subspace.prepare import checked_initialisation
from sails_eval.models.engines import engine_identity, resolve_engine
from sails_eval.models.identity import environment, model_identity
from sails_eval.plan.budget import Budget
from sails_eval.plan.identity import Identity, recipe_identity, training_identity
from sails_eval.plan.plan import EvaluationPlan, Plan, ReferenceModel, SubRun
from sails_eval.plan.preflight import check_data, check_judge, check_model, check_reference, check_saes
from sails_eval.plan.problems import Problem, Problems
from sails_eval.plan.references import prompted, reference
from sails_eval.plan.resolve import (
    check_kinds,
    load_methods,
    resolve_contrasts,
    resolve_judge,
    resolve_pair,
    sizes,
    tasks_of,
    with_commit,
    with_pinned_data,
)
from sails_eval.tasks.library import TaskInfo
from sails_eval.tasks.published import use_local
from sails_eval.tasks.sharing import check_sending

SHARED = {"tasks": "--tasks", "limit": "--limit", "judge": "--judge"}
"""What all sub-runs have in common, as it is called in their identities, and the flag that sets it for all."""


def prepare(config: CompareConfig, *, anew: bool = True) -> Plan:
    """The plan of a comparison. Raises UserError with a line for everything that is wrong or missing.

    Of a run that is finished, and not to be made `anew`, it does not matter whether keys and access are there still.
    """
    drafts = survey(config, anew=anew)
    Problems(problem for draft in drafts for problem in draft.problems).check()
    sub_runs = tuple(draft.sub_run for draft in drafts if draft.sub_run is not None)
    _check_comparable(sub_runs)
    return Plan(config, sub_runs)


def prepare_evaluation(config: CompareConfig, *, target: str | None = None) -> EvaluationPlan:
    """What evaluating takes: pair, tasks, judge and engine. Raises UserError as `prepare` does.

    `target` is the model that is evaluated, where that is not the pair's.
    """
    use_local(config.task_data)
    problems = Problems()
    pair = problems.attempt(resolve_pair, config)
    plan = None
    if pair is not None:
        tasks = problems.attempt(tasks_of, pair, config) or ()
        _check_access(pair, config, problems)
        plan = problems.attempt(_evaluation, pair, tasks, config, problems, target)
    problems.check()
    assert plan is not None
    return plan


@dataclass(frozen=True)
class Draft:
    """A sub-run as far as it could be resolved, and what stands in its way; what could not be is None or empty.

    `of_several` says whether there are other pairs: then the folder is called after the pair.
    """

    config: CompareConfig
    problems: Problems
    pair: Pair | None = None
    recipes: tuple[Recipe, ...] = ()
    prompts: tuple[Recipe, ...] = ()
    tasks: tuple[TaskInfo, ...] = ()
    sub_run: SubRun | None = None
    of_several: bool = False


def survey(config: CompareConfig, *, anew: bool = True) -> list[Draft]:
    """The sub-runs of a comparison in draft, with all problems: every pair, and of it every number of examples."""
    use_local(config.task_data)
    common = Problems()
    recipes, prompts = common.attempt(load_methods, config) or ((), ())
    common.attempt(sizes, config)
    numbers: list[int | None] = [*sorted(config.examples)] if len(config.examples) > 1 else [None]
    if len(set(numbers)) < len(numbers):
        common.append(Problem(f"--examples: each budget once, not {', '.join(map(str, config.examples))}"))
    drafts = []
    for pair in config.pairs or (None,):
        for examples in numbers:
            one = {"pair": pair, "examples": (examples,) if examples else config.examples}
            of_one = config.model_copy(update=one)
            draft = Draft(of_one, Problems(common), None, recipes, prompts, of_several=len(config.pairs) > 1)
            drafts.append(_resolved(draft, examples, anew=anew))
    return drafts


def _resolved(draft: Draft, examples: int | None, *, anew: bool) -> Draft:
    """The draft with all that could be resolved of it."""
    config, problems = draft.config, draft.problems
    pair = problems.attempt(resolve_pair, config)
    if pair is None:
        return draft
    tasks = problems.attempt(tasks_of, pair, config) or ()
    draft = replace(draft, pair=pair, tasks=tasks)
    if anew:
        _check_access(pair, config, problems)
    evaluation = problems.attempt(_evaluation, pair, tasks, config, problems)
    _check_training(pair, draft.recipes, problems)
    if evaluation is None or problems.stopping:
        return draft
    return replace(draft, sub_run=problems.attempt(_sub_run, draft, evaluation, examples))


def _check_access(pair: Pair, config: CompareConfig, problems: Problems) -> None:
    """See that models can be had, and that judges and references have the keys and extras that they want."""
    problems.attempt(check_model, pair)
    problems.attempt(check_judge, pair)
    for asked in config.reference:
        problems.attempt(check_reference, pair.references.get(asked, asked))


def _evaluation(
    pair: Pair, tasks: tuple[TaskInfo, ...], config: CompareConfig, problems: Problems, target: str | None = None
) -> EvaluationPlan | None:
    """What having the pair's model answer takes; None where something stands in the way."""
    engine = problems.attempt(resolve_engine, config.engine)
    if tasks:
        problems.attempt(check_kinds, tasks, "of unseen categories")
    spec = pair.judge and (trusting(pair.judge) if config.trust_remote_code else pair.judge)
    judge = problems.attempt(resolve_judge, spec, None if config.allow_self_judging else target or pair.model)
    if judge is not None:
        problems.attempt(check_sending, tasks, str(spec), config.send_to)
    calibration = judge and problems.attempt(note_on, judge, config.calibration)
    if problems.stopping:
        return None
    assert engine is not None and judge is not None
    pair = with_commit(pair.model_copy(update={"judge": spec}))
    identity = Identity(
        model=model_identity(pair),
        tasks={task.name: task.fingerprint for task in tasks},
        limit=config.limit,
        engine=engine_identity(engine, pair),
        judge=judge.fingerprint,
        version=__version__,
        environment=environment(),
    )
    return EvaluationPlan(
        pair,
        tasks,
        identity,
        engine=engine,
        limit=config.limit,
        calibration=calibration or "",
        allow_overlap=config.allow_overlap,
    )


def _check_training(pair: Pair, recipes: Sequence[Recipe], problems: Problems) -> None:
    """See that data, SAEs and settings are there."""
    problems.attempt(check_data, pair)
    problems.attempt(check_saes, pair)
    for recipe in recipes:
        problems.attempt(checked_initialisation, pair, recipe)


def _sub_run(draft: Draft, evaluation: EvaluationPlan, examples: int | None) -> SubRun:
    """The sub-run of a draft in which nothing is wrong so far. Raises UserError for what is."""
    config, recipes = draft.config, draft.recipes
    pair = with_pinned_data(evaluation.pair)
    references = _references(config, evaluation, draft.prompts)
    names = [BASE, *(recipe.name for recipe in recipes), *(row.name for row in references)]
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UserError(f"--reference: two rows would be called '{twice[0]}'; name one in the pair's key 'references'")
    seeds, rates = sizes(config)
    if rates > 1 or config.checkpoints > 1:
        chosen = "learning rates" if config.checkpoints == 1 else "learning rates and checkpoints"
        check_kinds(evaluation.validation_tasks, f"with a validation split, on which {chosen} are chosen")
    contrasts = None if config.contrasts is None else resolve_contrasts(config.contrasts, names)
    folders = [pair.name] * draft.of_several + [f"examples-{examples}"] * bool(examples)
    sub_run = SubRun(
        **{**vars(evaluation), "pair": pair, "references": references, "contrasts": contrasts},
        folder="/".join(folders),
        examples=examples,
        config=config,
        recipes=recipes,
        seeds=seeds,
        learning_rates=rates,
        checkpoints=config.checkpoints,
        budget=Budget(config.match, config.match_params),
    )
    return replace(sub_run, identity=_identity(sub_run))


def _identity(sub_run: SubRun) -> Identity:
    """The identity of a comparison: that of its evaluation, with all that its cells depend on."""
    training = training_identity(sub_run.pair, sub_run.recipes)
    return sub_run.identity.model_copy(
        update={
            "training": training,
            "recipes": {recipe.name: recipe_identity(recipe, training) for recipe in sub_run.recipes},
            "seeds": sub_run.seeds,
            "learning_rates": {recipe.name: sub_run.rates(recipe) for recipe in sub_run.recipes},
            "match": None if sub_run.budget.match == "tokens" else sub_run.budget.match,
            "match_params": sub_run.budget.match_params or None,
            "checkpoints": sub_run.checkpoints if sub_run.checkpoints > 1 else None,
            "contrasts": None if sub_run.contrasts is None else [list(one) for one in sub_run.contrasts],
            "finished": {row.name: row.identity for row in sub_run.references},
        }
    )


def _references(
    config: CompareConfig, evaluation: EvaluationPlan, prompts: Sequence[Recipe]
) -> tuple[ReferenceModel, ...]:
    """The rows that nothing is trained for. Raises UserError where one can't be had, or is the judge itself."""
    pair, engine = evaluation.pair, evaluation.engine
    models = [reference(asked, pair, engine) for asked in config.reference]
    for row in models:
        if not config.allow_self_judging:
            check_not_itself(evaluation.judge, row.pair.model)
        if row.chats:
            check_sending(evaluation.tasks, row.model, config.send_to)
    return (*(prompted(recipe, pair, engine) for recipe in prompts), *models)


def _check_comparable(sub_runs: Sequence[SubRun]) -> None:
    """Raises UserError naming the pair that differs from the first in what all have to share."""
    first = sub_runs[0]
    for one in sub_runs[1:]:
        for key, flag in SHARED.items():
            if getattr(one.identity, key) != getattr(first.identity, key):
                raise UserError(
                    f"pair '{one.pair.name}': its {key} is not that of '{first.pair.name}'; give {flag} for all, or "
                    "compare them in runs of their own"
                )
        for asked in one.config.reference if one.pair.name != first.pair.name else ():
            if not all(asked in each.pair.references for each in (first, one)):
                raise UserError(
                    f"--reference {asked}: with several pairs it names a model of each, in their key 'references'; "
                    "one model is not several organisms"
                )
    if len({one.folder for one in sub_runs}) < len(sub_runs):
        names = ", ".join(one.pair.name for one in sub_runs)
        raise UserError(f"--pair: two of the pairs have the same name ({names})")
