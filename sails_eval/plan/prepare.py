"""From what the user asked for to a plan of all that will be done: every noun resolved once, every problem told.

Nothing here trains, loads a model or torch, or takes long.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from sails_eval.boards.contrasts import SECONDARY
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import BASE
from sails_eval.core.version import __version__
from sails_eval.judges import load_judge
from sails_eval.judges.calibration import note_on
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.judges.spec import trusting
from sails_eval.methods.subspace.prepare import checked_initialisation
from sails_eval.models.engines import HF, OPENAI, engine_identity, resolve_engine
from sails_eval.models.identity import commit_of, environment, model_identity
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.plan import preflight, resolve
from sails_eval.plan.budget import AS_THE_PAIR, Budget, Size
from sails_eval.plan.identity import Identity, recipe_identity, training_identity
from sails_eval.plan.plan import EvaluationPlan, Plan, PlannedJudge, ReferenceModel, SubRun, Tuning
from sails_eval.plan.problems import Problem, Problems
from sails_eval.plan.protocol import (
    Protocol,
    by_default,
    first_seed,
    in_words,
    recipe_hashes,
    seeds_to_test,
    seeds_to_tune,
)
from sails_eval.plan.references import prompted, reference
from sails_eval.tasks.library import TaskInfo
from sails_eval.tasks.published import use_local
from sails_eval.tasks.sharing import check_sending
from sails_eval.training.batches import examples_per_step

NO_MORE = "draws no more labelled examples than other rows here, which contrast the examples that they train on"
"""Of methods that were to draw as many as others see."""

ALL_OF_IT = "draws no more labelled examples than other rows here, which already train on all examples"

SHARED = {"tasks": "--tasks", "limit": "--limit", "judge": "--judge"}
"""What all sub-runs have in common, as it is called in their identities, and the flag that sets it for all."""


def prepare(config: CompareConfig, *, anew: bool = True) -> Plan:
    """The plan of a comparison. Raises UserError with a line for everything that is wrong or missing.

    Of a run that is finished, and not to be made `anew`, it does not matter whether keys and access are there still.
    """
    drafts = survey(config, anew=anew)
    problems = Problems(problem for draft in drafts for problem in draft.problems)
    problems.check()
    sub_runs = tuple(draft.sub_run for draft in drafts if draft.sub_run is not None)
    _check_comparable(sub_runs, problems)
    problems.check()
    return Plan(config, _under_protocol(sub_runs) if config.protocol == "confirm" else sub_runs)


def prepare_evaluation(config: CompareConfig, *, target: str | None = None, name: str | None = None) -> EvaluationPlan:
    """What evaluating takes: pair, tasks, judge and engine. Raises UserError as `prepare` does.

    `target` is what is evaluated: an adapter on the pair's model, or a model in its place; `name` is what the row is
    called. It is the one of the plan's `references`, and pair, engine and tasks are its.
    """
    use_local(config.task_data)
    problems, adapter = Problems(), target is not None and (Path(target) / CONFIG).is_file()
    if target is not None and config.pair is None and config.model is None:
        if adapter:
            raise UserError(f"{target} is an adapter; give its base model: --pair NAME or --model MODEL")
        if target.startswith(f"{OPENAI}:"):
            raise UserError(f"{target}: no tasks and no judge; give --pair NAME, whose tasks and judge are used")
        config = config.model_copy(update={"model": target})
    pair = problems.attempt(resolve.resolve_pair, config)
    tasks = (pair and problems.attempt(resolve.tasks_of, pair, config)) or ()
    plan = row = None
    found = pair is not None and _check_access(pair, problems)
    if pair is not None:
        plan = problems.attempt(_evaluation, pair, tasks, config, problems, None if adapter else target)
    if pair is not None and target is not None and (found or target != pair.model):  # else it is known to be missing
        row = problems.attempt(reference, target, plan.pair if plan else pair, plan.engine if plan else HF, name=name)
        if row is not None and row.chats:
            problems.attempt(check_sending, tasks, row.model, config.send_to)
    problems.check()
    assert plan is not None
    if row is None:
        return plan
    identity = plan.identity.model_copy(update={"checkpoint" if row.checkpoint else "model": row.identity})
    own = row.tasks(tasks)
    return replace(plan, pair=row.pair, engine=row.engine, tasks=own, identity=identity, references=(row,))


def prepare_training(config: CompareConfig) -> SubRun:
    """What training one recipe takes. Raises UserError as `prepare` does."""
    problems = Problems()
    recipes, _ = problems.attempt(resolve.load_methods, config) or ((), ())
    pair = problems.attempt(resolve.resolve_pair, config)
    if pair is not None:
        problems.attempt(preflight.check_model, pair)
        _check_training(pair, recipes, problems)
    problems.attempt(resolve.check_rates, config, recipes)
    problems.check()
    assert pair is not None
    pair = resolve.with_pinned_data(pair)
    identity = Identity(training=training_identity(pair, recipes))
    budget = Budget(examples=resolve.examples_of(pair, recipes))
    return SubRun(pair, identity=identity, recipes=recipes, seeds=(0,), learning_rates=1, budget=budget, config=config)


@dataclass(frozen=True)
class Draft:
    """A sub-run as far as it could be resolved, and what stands in its way; what could not be is None or empty.

    `size` is as in `SubRun`, `organism` the place of its pair among all, `first_seed` where a
    confirmation's begin.
    """

    config: CompareConfig
    problems: Problems
    pair: Pair | None = None
    recipes: tuple[Recipe, ...] = ()
    prompts: tuple[Recipe, ...] = ()
    tasks: tuple[TaskInfo, ...] = ()
    sub_run: SubRun | None = None
    of_several: bool = False
    size: Size = AS_THE_PAIR
    organism: int = 0
    first_seed: int = 0


def survey(config: CompareConfig, *, anew: bool = True) -> list[Draft]:
    """The sub-runs of a comparison in draft, with all problems: every pair, and of it every budget."""
    use_local(config.task_data)
    common = Problems()
    recipes, prompts = common.attempt(resolve.load_methods, config) or ((), ())
    common.attempt(resolve.sizes, config, recipes)
    common.attempt(resolve.tuning_size, config)
    for flag, given in (("--examples", config.examples), ("--steps", config.steps)):
        if len(set(given)) < len(given):
            common.append(Problem(f"{flag}: a value is given twice ({', '.join(map(str, given))}); give each once"))
    first, drafts = first_seed(config, recipes), []
    for organism, name in enumerate(config.pairs or (None,)):
        for size in grid(config):
            one = at_size(config, size).model_copy(update={"pair": name, "organisms": None})
            draft = Draft(one, Problems(common), None, recipes, prompts, of_several=len(config.pairs) > 1, size=size)
            drafts.append(_resolved(replace(draft, organism=organism, first_seed=first), anew=anew))
    return drafts


def grid(config: CompareConfig) -> list[Size]:
    """Every number of examples with every number of steps, as far as there are several, ascending."""
    examples: list[int | None] = [*sorted(config.examples)] if len(config.examples) > 1 else [None]
    steps: list[int | None] = [*sorted(config.steps)] if len(config.steps) > 1 else [None]
    return [Size(*of_both) for of_both in product(examples, steps)]


def at_size(config: CompareConfig, size: Size) -> CompareConfig:
    """The same at one place of its grid."""
    return config.model_copy(update={key: (n,) for key, n in vars(size).items() if n})


def _resolved(draft: Draft, *, anew: bool) -> Draft:
    """The draft with all that could be resolved of it."""
    config, problems = draft.config, draft.problems
    pair = problems.attempt(resolve.resolve_pair, config)
    if pair is None:
        return draft
    tasks = problems.attempt(resolve.tasks_of, pair, config) or ()
    draft = replace(draft, pair=pair, tasks=tasks)
    if anew:
        _check_access(pair, problems)
    problems.attempt(resolve.check_kinds, tasks)
    evaluation = problems.attempt(_evaluation, pair, tasks, config, problems)
    _check_training(pair, draft.recipes, problems)
    tuned = config.learning_rates != 1 and config.learning_rate is None
    if tuned or config.checkpoints > 1 or config.protocol == "confirm":
        chosen = "learning rates" if config.checkpoints == 1 else "learning rates and checkpoints"
        problems.attempt(resolve.check_kinds, tasks, chosen=chosen)
    references = _references(draft, evaluation, problems, anew=anew)
    rows = [BASE, *(recipe.name for recipe in draft.recipes), *(row.name for row in references)]
    if twice := [name for name, n in Counter(rows).items() if n > 1]:
        told = (
            f"--reference: two rows would be named '{twice[0]}'; give one a name in key 'references' of the pair's YAML"
        )
        problems.append(Problem(told))
    trained = [recipe.name for recipe in draft.recipes]
    contrasts = problems.attempt(resolve.resolve_contrasts, config, trained, rows)
    if evaluation is None or problems.stopping:
        return draft
    evaluation = replace(evaluation, references=references, contrasts=contrasts)
    sub_run = problems.attempt(_sub_run, draft, evaluation)
    if sub_run is not None:
        problems += [Problem(f"{name}: {note}", stops=False) for name, note in sub_run.budget.notes.items()]
    return replace(draft, sub_run=sub_run)


def _check_access(pair: Pair, problems: Problems) -> bool:
    """Whether the model is here or can be fetched; the keys and extras that the judge needs are checked, too."""
    before = len(problems)
    problems.attempt(preflight.check_model, pair)
    found = len(problems) == before
    problems.attempt(preflight.check_judge, pair)
    return found


def _evaluation(
    pair: Pair, tasks: tuple[TaskInfo, ...], config: CompareConfig, problems: Problems, target: str | None = None
) -> EvaluationPlan | None:
    """What having the pair's model answer takes; None where something stands in the way."""
    engine = problems.attempt(resolve_engine, config.engine)
    spec = pair.judge and (trusting(pair.judge) if config.trust_remote_code else pair.judge)
    itself = None if config.allow_self_judging else target or pair.model
    judge = problems.attempt(resolve.resolve_judge, spec, itself, tasks)
    if judge is not None:
        problems.attempt(check_sending, tasks, str(spec), config.send_to)
    calibration = judge and problems.attempt(note_on, judge, config.calibration)
    other = problems.attempt(load_judge, pair.reference_judge) if pair.reference_judge else None
    if problems.stopping:
        return None
    assert engine is not None and judge is not None
    pair = pair.model_copy(update={"judge": spec, "revision": commit_of(pair.model, pair.revision)})
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
        judge=PlannedJudge(str(spec), judge.name, judge.fingerprint),
        reference_judge=PlannedJudge(str(pair.reference_judge), other.name, other.fingerprint) if other else None,
        limit=config.limit,
        calibration=calibration or "",
        allow_overlap=config.allow_overlap,
        config=config,
    )


def _check_training(pair: Pair, recipes: Sequence[Recipe], problems: Problems) -> None:
    """See that data, SAEs and settings are there and can be read."""
    before = len(problems)
    problems.attempt(preflight.check_data, pair)
    readable = len(problems) == before
    problems.attempt(preflight.check_saes, pair, recipes)
    for recipe in recipes:
        problems.attempt(checked_initialisation, pair, recipe)
        if readable:
            problems.attempt(preflight.check_sample, pair, recipe)
        problems.attempt(examples_per_step, pair, recipe.objective)


def _references(
    draft: Draft, evaluation: EvaluationPlan | None, problems: Problems, *, anew: bool
) -> tuple[ReferenceModel, ...]:
    """The rows that nothing is trained for; a problem where one can't be had, or is the judge itself."""
    config = draft.config
    pair, engine = (evaluation.pair, evaluation.engine) if evaluation else (draft.pair, HF)
    assert pair is not None
    models = []
    for asked in config.reference:
        told = len(problems)
        if anew:
            problems.attempt(preflight.check_reference, pair.references.get(asked, asked))
        row = problems.attempt(reference, asked, pair, engine) if len(problems) == told else None
        if row is None:
            continue
        models.append(row)
        if pair.judge and not config.allow_self_judging:
            problems.attempt(check_not_itself, pair.judge, row.pair.model)
        if row.chats:
            problems.attempt(check_sending, draft.tasks, row.model, config.send_to)
    return (*(prompted(recipe, pair, engine) for recipe in draft.prompts), *models)


def _sub_run(draft: Draft, evaluation: EvaluationPlan) -> SubRun:
    """The sub-run of a draft in which nothing is wrong."""
    config, pair = draft.config, resolve.with_pinned_data(evaluation.pair)
    seeds, rates = resolve.sizes(config, draft.recipes)
    tuned = resolve.tuning_size(config)
    folders = [pair.name] * draft.of_several + [draft.size.folder] * bool(draft.size)
    sub_run = SubRun(
        **{**vars(evaluation), "pair": pair},
        folder="/".join(folders),
        size=draft.size,
        recipes=draft.recipes,
        seeds=seeds_to_test(draft.first_seed, draft.organism, seeds) if tuned else tuple(range(seeds)),
        tuning=Tuning(seeds_to_tune(draft.first_seed, draft.organism, tuned)) if tuned else None,
        learning_rates=rates,
        checkpoints=config.checkpoints,
        budget=_budget(config, pair, draft.recipes),
    )
    return replace(sub_run, identity=_identity(sub_run))


def _budget(config: CompareConfig, pair: Pair, recipes: tuple[Recipe, ...]) -> Budget:
    """The budget as far as it is known without a model, with a note on methods that are to draw more examples."""
    examples, notes = resolve.examples_of(pair, recipes), dict[str, str]()
    for name in (recipe.name for recipe in recipes if recipe.examples == "contrast"):
        more = f"draws {examples.get(name)} labelled examples per seed, while other rows draw {pair.examples}"
        notes[name] = more if name in examples else NO_MORE if pair.contrast_examples == "sample" else ALL_OF_IT
    return Budget(config.match, config.match_params, examples=examples, notes=notes)


def _identity(sub_run: SubRun) -> Identity:
    """The identity of a comparison: that of its evaluation, with all that its cells depend on."""
    training, budget = training_identity(sub_run.pair, sub_run.recipes), sub_run.budget
    sub_run = replace(sub_run, identity=sub_run.identity.model_copy(update={"training": training}))
    return sub_run.identity.model_copy(
        update={
            "recipes": {
                recipe.name: recipe_identity(recipe, sub_run.training_of(recipe)) for recipe in sub_run.recipes
            },
            "seeds": len(sub_run.seeds),
            "learning_rates": {recipe.name: sub_run.grid(recipe) for recipe in sub_run.recipes},
            "match": None if budget.match == "tokens" else budget.match,
            "match_params": budget.match_params or None,
            "checkpoints": sub_run.checkpoints if sub_run.checkpoints > 1 else None,
            "contrasts": None if sub_run.contrasts is None else [one.told for one in sub_run.contrasts],
            "finished": {row.name: row.identity for row in sub_run.references},
        }
    )


def _under_protocol(sub_runs: Sequence[SubRun]) -> tuple[SubRun, ...]:
    """The same, with the protocol that is fixed for all of them."""
    first = sub_runs[0]
    of_pairs = {one.pair.name: one for one in sub_runs}
    trained = [recipe.name for recipe in first.recipes]
    rows = [BASE, *trained, *(row.name for row in first.references)]
    unit, tuning, stop = in_words(len(of_pairs), len(first.seeds))
    protocol = Protocol(
        organisms=tuple(of_pairs),
        methods=tuple(trained),
        tasks=tuple(task.name for task in first.tasks),
        limit=first.limit,
        judge=first.judge.spec,
        budgets=tuple(dict.fromkeys(_in_words(one) for one in sub_runs)),
        trials=first.trials,
        recipes=recipe_hashes(first.recipes),
        grids={name: tuple(rates) for name, rates in first.identity.learning_rates.items()},
        comparisons=tuple(map(str, first.contrasts or ())),
        left_out=() if first.config.comparisons is not None else tuple(map(str, by_default(trained, rows)[1])),
        secondary=SECONDARY,
        unit=unit,
        tuning_seeds={name: one.validated_seeds for name, one in of_pairs.items()},
        tuning=tuning,
        test_seeds={name: one.seeds for name, one in of_pairs.items()},
        stop=stop,
    )
    identities = [one.identity.model_copy(update={"protocol": protocol.fingerprint}) for one in sub_runs]
    return tuple(replace(one, protocol=protocol, identity=i) for one, i in zip(sub_runs, identities, strict=True))


def _in_words(one: SubRun) -> str:
    """The budget of a sub-run's cells, with what was set instead of what the pair has."""
    return ", ".join([f"{one.pair.examples or 'all'} examples", one.pair.length, *one.config.in_words])


def _check_comparable(sub_runs: Sequence[SubRun], problems: Problems) -> None:
    """See that all have what they have to share; a problem names the pair that differs from the first."""
    first, models = sub_runs[0], {digest(sub_runs[0].identity.model): sub_runs[0].pair.name}
    for one in sub_runs[1:]:
        for key, flag in SHARED.items():
            if getattr(one.identity, key) != getattr(first.identity, key):
                told = (
                    f"pair '{one.pair.name}': {key} differs from pair '{first.pair.name}'; give {flag} for all pairs, "
                )
                problems.append(Problem(told + "or compare them in separate runs"))
        for asked in one.config.reference if one.pair.name != first.pair.name else ():
            if not all(asked in each.pair.references for each in (first, one)):
                told = f"--reference {asked}: with several pairs, a reference must be a name that each pair has in its "
                problems.append(Problem(told + "key 'references', since one model is not several organisms"))
        other = models.setdefault(digest(one.identity.model), one.pair.name)
        if other != one.pair.name and one.config.protocol == "confirm":
            told = (
                f"pair '{one.pair.name}': has the same model as '{other}', so it is not another organism; leave one out"
            )
            problems.append(Problem(told))
    if len({one.folder for one in sub_runs}) < len(sub_runs):
        names = ", ".join(one.pair.name for one in sub_runs)
        problems.append(Problem(f"--pair: two of the pairs have the same name ({names}); give each once"))
