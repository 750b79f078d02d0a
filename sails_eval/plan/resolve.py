"""From what the user asked for to a checked list of cells: nothing here trains, loads a model, or takes long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from sails_eval.boards.contrasts import check_contrasts
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.data_source import starting_at
from sails_eval.core.errors import UserError
from sails_eval.core.pair import DATA, Pair, SaeSource, load_pair
from sails_eval.core.recipe import Recipe, check_equal_spans, load_recipe
from sails_eval.core.records import BASE
from sails_eval.core.schema import as_name
from sails_eval.core.version import __version__
from sails_eval.data.reading import pinned
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge, JudgedKind, check_reads
from sails_eval.judges.calibration import note_on
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.judges.spec import trusting
from sails_eval.models.engines import engine_identity, resolve_engine
from sails_eval.models.identity import commit_of, environment, model_identity
from sails_eval.plan.identity import recipe_identity, training_identity
from sails_eval.plan.references import prompted, reference
from sails_eval.plan.setup import QUICK, Finished, Setup
from sails_eval.tasks.library import TaskInfo, resolve_tasks
from sails_eval.tasks.published import use_local
from sails_eval.tasks.sharing import check_sending


def resolve_pair(config: CompareConfig) -> Pair:
    """The named pair, or one made of --model and its companions, with every flag folded in."""
    if config.pair is not None and config.model is not None:
        raise UserError("say which model: either --pair NAME or --model MODEL, and not both")
    for flag, given in (("--pair", config.pairs), ("--examples", config.examples)):
        if len(given) > 1:
            raise UserError(f"{flag}: only compare takes several ({', '.join(map(str, given))})")
    if config.pairs:
        pair = load_pair(config.pairs[0])
    else:
        assert config.model is not None
        pair = Pair(name=as_name(Path(config.model).resolve().name), model=config.model)
    flags: dict[str, Any] = {
        key: value
        for key in ("train", "contrast", "judge", "tokens", "tasks", "chat_template", "regularise")
        if (value := getattr(config, key)) is not None
    }
    if config.sae:
        flags["saes"] = tuple(SaeSource(path=path.resolve()) for path in config.sae)
    if config.examples:
        (flags["examples"],) = config.examples
    for key in ("train", "contrast", "chat_template"):
        if key in flags:
            flags[key] = starting_at(Path.cwd(), flags[key])
    return pair.model_copy(update=flags)


def resolve(config: CompareConfig) -> Setup:
    """Check a comparison of one pair at one budget against the files it names.

    Raises UserError for the first thing that cannot work.
    """
    recipes, prompts = load_methods(config)
    check_equal_spans(recipes)
    setup = resolve_evaluation(config)
    setup = replace(setup, pair=with_pinned_data(setup.pair))
    finished = _finished(config, setup, prompts)
    names = [recipe.name for recipe in recipes] + [row.name for row in finished]
    if len({*names, BASE}) <= len(names):
        twice = next(name for name in (BASE, *names) if (BASE, *names).count(name) > 1)
        raise UserError(f"--reference: two rows would be called '{twice}'; name one in the pair's key 'references'")
    training = training_identity(setup.pair, recipes)
    seeds, rates = sizes(config)
    if rates > 1 or config.checkpoints > 1:
        chosen = "learning rates" if config.checkpoints == 1 else "learning rates and checkpoints"
        _check_kinds(setup.validation_tasks, f"with a validation split, on which {chosen} are chosen")
    identity = {
        **setup.identity,
        "training": training,
        "recipes": {recipe.name: recipe_identity(recipe, training) for recipe in recipes},
        "seeds": seeds,
    }
    if config.match != "tokens":
        identity["match"] = config.match
    if config.match_params:
        identity["match_params"] = True
    if config.checkpoints > 1:
        identity["checkpoints"] = config.checkpoints
    contrasts = None if config.contrasts is None else _contrasts(config.contrasts, [BASE, *names])
    if contrasts is not None:
        identity["contrasts"] = [list(pair) for pair in contrasts]
    if finished:
        identity["finished"] = {row.name: row.identity for row in finished}
    setup = replace(
        setup,
        recipes=recipes,
        seeds=seeds,
        learning_rates=rates,
        checkpoints=config.checkpoints,
        identity=identity,
        contrasts=contrasts,
        finished=finished,
        match=config.match,
        match_params=config.match_params,
    )
    identity["learning_rates"] = {recipe.name: setup.rates(recipe) for recipe in recipes}
    return setup


def load_methods(config: CompareConfig) -> tuple[tuple[Recipe, ...], tuple[Recipe, ...]]:
    """The recipes that train, and those that don't."""
    methods = tuple(load_recipe(name) for name in config.methods)
    recipes = tuple(recipe for recipe in methods if recipe.trains)
    names = [recipe.name for recipe in methods]
    if not recipes or len(set(names)) < len(names) or BASE in names:
        raise UserError("--methods: name at least one method that trains, each once ('base' is always a row)")
    return recipes, tuple(recipe for recipe in methods if not recipe.trains)


def sizes(config: CompareConfig) -> tuple[int, int]:
    """How many seeds and how many learning rates."""
    if config.quick and config.model_fields_set & QUICK.keys():
        raise UserError("--quick sets --seeds and --learning-rates itself; leave it out or leave them out")
    return (QUICK["seeds"], QUICK["learning_rates"]) if config.quick else (config.seeds, config.learning_rates)


def _finished(config: CompareConfig, setup: Setup, prompts: Sequence[Recipe]) -> tuple[Finished, ...]:
    """The rows that nothing is trained for. Raises UserError where one can't be had, or is the judge itself."""
    references = [reference(asked, setup.pair, setup.engine) for asked in config.reference]
    for row in references:
        if not config.allow_self_judging:
            check_not_itself(setup.judge, row.pair.model)
        if row.chats:
            check_sending(setup.tasks, row.model, config.send_to)
    return (*(prompted(recipe, setup.pair, setup.engine) for recipe in prompts), *references)


def _contrasts(given: tuple[str, ...], rows: list[str]) -> tuple[tuple[str, str], ...]:
    """`a:b` as pairs of rows. Raises UserError unless each names two rows of the board, once."""
    found = [tuple(contrast.split(":")) for contrast in given]
    for contrast, names in zip(given, found, strict=True):
        if len(names) != 2:
            raise UserError(f"contrasts: '{contrast}' is not of the form A:B with two rows of the board")
    pairs = tuple((names[0], names[-1]) for names in found)
    check_contrasts(pairs, rows)
    return pairs


def resolve_evaluation(config: CompareConfig, *, target: str | None = None) -> Setup:
    """The part of `resolve` that needs no training: pair, tasks and judge.

    `target` is the model that is evaluated, where that is not the pair's.
    """
    use_local(config.task_data)
    pair = resolve_pair(config)
    if pair.judge is None:
        raise UserError(
            "no judge; give --judge rules, hf:MODEL, openai:MODEL or zoo:NAME, or several between commas (only a pair "
            "can name a default)"
        )
    judge = trusting(pair.judge) if config.trust_remote_code else pair.judge
    if not pair.tasks:
        raise UserError("no tasks; give --tasks NAME,NAME (see: sails-eval tasks list)")
    tasks = tuple(resolve_tasks(pair.tasks, config.include_path))
    _check_kinds(tasks, "of unseen categories")
    check_sending(tasks, judge, config.send_to)
    engine = resolve_engine(config.engine)
    loaded = _resolve_judge(judge, None if config.allow_self_judging else target or pair.model)
    pair = pair.model_copy(update={"judge": judge, "revision": commit_of(pair.model, pair.revision)})
    identity = {
        "model": model_identity(pair),
        "tasks": {task.name: task.fingerprint for task in tasks},
        "limit": config.limit,
        "engine": engine_identity(engine, pair),
        "judge": loaded.fingerprint,
        "version": __version__,
        "environment": environment(),
    }
    calibration = note_on(loaded, config.calibration)
    return Setup(
        pair,
        tasks,
        identity,
        engine=engine,
        limit=config.limit,
        calibration=calibration,
        allow_overlap=config.allow_overlap,
    )


def _resolve_judge(spec: str, model: str | None) -> Judge:
    """The judge of a comparison. Raises UserError where it is `model` or cannot read both kinds of answers."""
    judge = load_judge(spec)
    for kind in get_args(JudgedKind):
        check_reads(judge, kind)
    if model is not None:
        check_not_itself(spec, model)
    return judge


def with_pinned_data(pair: Pair) -> Pair:
    """The same pair, whose data on the hub is that of today's commits. Raises UserError where it cannot be had."""
    return pair.model_copy(update={key: pinned(getattr(pair, key)) for key in DATA})


def _check_kinds(tasks: tuple[TaskInfo, ...], which: str) -> None:
    """The headline needs harmful and safe tasks."""
    for kind in ("harmful", "safe"):
        if not any(task.kind == kind and not task.seen_in_training for task in tasks):
            raise UserError(f"--tasks has no {kind} task {which}; the alignment score needs one")
