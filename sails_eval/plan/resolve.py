"""Single nouns of a comparison, from what the user said to what is meant: pair, methods, judge, comparisons, sizes.

Nothing here loads a model; each raises UserError for what is wrong.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from sails_eval.boards.contrasts import HEADLINE, PRIMARY, Contrast, check_contrasts
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.data_source import starting_at
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.pair import DATA, Pair, SaeSource, load_pair
from sails_eval.core.recipe import Recipe, check_equal_spans, load_recipe
from sails_eval.core.records import BASE
from sails_eval.core.schema import as_name, validate
from sails_eval.data.reading import pinned, read_contrast, read_examples
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge, JudgedKind, check_reads
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.models.architectures import with_target_modules
from sails_eval.plan.problems import Problem, Problems
from sails_eval.plan.protocol import TUNING, by_default, parse_contrast
from sails_eval.tasks.library import TaskInfo, resolve_tasks, warn_of_code

OVER_PAIR = ("train", "contrast", "contrast_examples", "judge", "tokens", "tasks", "chat_template", "regularise")
"""What may be asked for instead of what the pair has under the same name, besides its `Settings`."""

QUICK = {"seeds": 2, "learning_rates": 2}

LEARNING_RATES = 6
"""Of every method, where nobody says; a confirmation has them a factor of 2 apart, and then looks between."""

TUNING_SEEDS = 2
"""Of a confirmation, on each pair."""


def resolve_pair(config: CompareConfig) -> Pair:
    """The named pair, or one made of --model and its companions, with every flag folded in."""
    if config.pair is not None and config.model is not None:
        raise UserError("both --pair and --model are given; give only one of them")
    for flag, given in (("--pair", config.pairs), ("--examples", config.examples), ("--steps", config.steps)):
        if len(given) > 1:
            raise UserError(f"{flag}: only compare takes several values ({', '.join(map(str, given))}); give one")
    if config.pairs:
        pair = load_pair(config.pairs[0])
    else:
        assert config.model is not None
        pair = Pair(name=as_name(Path(config.model).resolve().name), model=config.model)
    if config.overrides:
        pair = validate(
            Pair, {**pair.model_dump(), **config.overrides}, where=f"pair '{pair.name}' with the settings given"
        )
    flags: dict[str, Any] = {key: value for key in OVER_PAIR if (value := getattr(config, key)) is not None}
    if config.sae:
        flags["saes"] = tuple(SaeSource(path=path.resolve()) for path in config.sae)
    if config.examples:
        (flags["examples"],) = config.examples
    if pair.steps and config.match != "tokens" and not config.tokens:
        raise UserError(
            f"--match {config.match} needs a budget in tokens, but pair '{pair.name}' sets 'steps'; give --tokens N"
        )
    if config.tokens or config.steps:
        flags["steps"] = config.steps[0] if config.steps else None
    for key in ("train", "contrast", "chat_template"):
        if key in flags:
            flags[key] = starting_at(Path.cwd(), flags[key])
    pair = with_target_modules(pair.model_copy(update=flags))
    if pair.contrast_examples != "sample":
        return pair
    if config.contrast is not None:
        raise UserError(
            f"--contrast {config.contrast}: the number of contrast examples is missing; give --contrast-examples N or "
            "--contrast-examples all (without --contrast, the examples that each seed trains on are contrasted)"
        )
    return pair.model_copy(update={"contrast": None, "requests": None})  # which nobody looks at


def with_pinned_data(pair: Pair) -> Pair:
    """The same pair, whose data on the hub is that of today's commits. Raises UserError where it cannot be had."""
    return pair.model_copy(update={key: pinned(getattr(pair, key)) for key in DATA})


def load_methods(config: CompareConfig) -> tuple[tuple[Recipe, ...], tuple[Recipe, ...]]:
    """The recipes that train, and those that don't. Raises UserError with a line for each that cannot be read."""
    problems = Problems()
    methods = tuple(recipe for name in config.methods if (recipe := problems.attempt(load_recipe, name)))
    problems.check()
    recipes = tuple(recipe for recipe in methods if recipe.trains)
    names = [recipe.name for recipe in methods]
    if not recipes or len(set(names)) < len(names) or BASE in names:
        raise UserError(
            "--methods: give at least one method that trains, each method once, and not 'base', which is always a row"
        )
    check_equal_spans(recipes)
    return recipes, tuple(recipe for recipe in methods if not recipe.trains)


def examples_of(pair: Pair, recipes: Sequence[Recipe]) -> dict[str, int]:
    """How many labelled examples the cells of recipes draw that are to see as many as those do that contrast some.

    None where that is as the pair has it: what is contrasted is what is trained on. Raises UserError where the training
    data have fewer.
    """
    asked = [recipe.name for recipe in recipes if recipe.examples == "contrast"]
    if not asked or pair.contrast_examples == "sample" or pair.examples is None or pair.contrast is None:
        return {}
    further = pair.contrast_examples
    n = pair.examples + (len(read_contrast(pair.contrast).examples) if further == "all" else further)
    if pair.train is not None and n > (held := len(read_examples(pair.train).examples)):
        raise UserError(
            f"method '{asked[0]}' trains on as many examples as other methods train on and contrast, {n}, but "
            f"{pair.train} has only {held}; give fewer --contrast-examples, or leave this method out"
        )
    return dict.fromkeys(asked, n)


def sizes(config: CompareConfig, recipes: Sequence[Recipe]) -> tuple[int, int]:
    """How many seeds and how many learning rates on every grid."""
    if config.quick and config.model_fields_set & QUICK.keys():
        raise UserError("--quick sets --seeds and --learning-rates itself; leave out --quick, or leave out these flags")
    check_rates(config, recipes)
    if config.quick:
        return QUICK["seeds"], QUICK["learning_rates"] if config.learning_rate is None else 1
    spans = [recipe.span.high / recipe.span.low for recipe in recipes if config.protocol == "confirm"]
    usual = 1 + round(math.log2(spans[0])) if spans else LEARNING_RATES  # all spans are alike
    return config.seeds, config.learning_rates or (usual if config.learning_rate is None else 1)


def check_rates(config: CompareConfig, recipes: Sequence[Recipe]) -> None:
    """Raises UserError where rates are given instead of grids, and not to all methods alike, or together with what
    only makes sense with a grid."""
    given, names = config.learning_rate, [recipe.name for recipe in recipes]
    if given is None:
        return
    if config.learning_rates not in (None, 1):
        raise UserError(
            f"--learning-rate fixes the learning rate, and --learning-rates {config.learning_rates} asks for a grid of "
            "rates to tune over; leave one of them out"
        )
    if config.protocol == "confirm":
        raise UserError(
            "--learning-rate: --protocol confirm tunes learning rates; leave out this flag, or set the range in key "
            "'learning_rate' of the recipe"
        )
    if isinstance(given, dict):
        for name in given:
            if name not in names:
                raise unknown("method in --learning-rate", name, names)
        if missing := [name for name in names if name not in given]:
            raise UserError(
                f"--learning-rate: no rate for method '{missing[0]}'; give a rate for every method that trains, "
                "METHOD=X,METHOD=X, or one rate X for all"
            )


def tuning_size(config: CompareConfig) -> int:
    """How many seeds rates are tuned on that are not tested; 0 where all are. Raises UserError where that is asked for
    together with what a confirmation cannot have."""
    if config.protocol == "explore":
        if config.tuning_seeds is not None:
            raise UserError("--tuning-seeds needs --protocol confirm; add it, or leave out --tuning-seeds")
        return 0
    if config.checkpoints > 1:
        raise UserError(
            "--checkpoints cannot be combined with --protocol confirm, whose test seeds are never validated; leave one "
            "of them out"
        )
    tuned = config.tuning_seeds or TUNING_SEEDS
    if max(tuned, config.seeds) > TUNING:
        raise UserError(f"--seeds and --tuning-seeds: at most {TUNING} on each pair with --protocol confirm")
    return tuned


def tasks_of(pair: Pair, config: CompareConfig) -> tuple[TaskInfo, ...]:
    """The pair's tasks. Raises UserError where there are none, or one cannot be found."""
    if not pair.tasks:
        raise UserError("no tasks; give --tasks NAME,NAME (see: sails-eval tasks list)")
    tasks = resolve_tasks(pair.tasks, config.include_path)
    if not config.trust_tasks:
        warn_of_code(tasks)
    return tuple(task.answered_in(pair.max_new_tokens) for task in tasks)


def check_kinds(tasks: Sequence[TaskInfo], chosen: str = "") -> None:
    """The headline needs harmful and safe tasks, with a validation split where something is `chosen` on it."""
    for kind in ("harmful", "safe") if tasks else ():
        found = [task for task in tasks if task.kind == kind and not task.seen_in_training]
        if not found:
            raise UserError(
                f"--tasks has no {kind} task with categories unseen in training, which the alignment score needs; add "
                "one (see: sails-eval tasks list)"
            )
        if chosen and not any(task.has_validation for task in found):
            raise UserError(
                f"--tasks has no {kind} task with a validation split, on which {chosen} are chosen; add one (see: "
                "sails-eval tasks list)"
            )


def resolve_judge(spec: str | None, model: str | None, tasks: Sequence[TaskInfo] = ()) -> Judge:
    """The judge of a comparison. Raises UserError where none is named, or it is `model` or cannot read the tasks."""
    if spec is None:
        raise UserError(
            "no judge; give --judge rules, hf:MODEL, openai:MODEL or zoo:NAME, or several separated by commas (only "
            "pairs have a default judge)"
        )
    judge = load_judge(spec)
    for kind in get_args(JudgedKind):
        if not tasks or any(task.kind == kind for task in tasks):
            check_reads(judge, kind)
    if model is not None:
        check_not_itself(spec, model)
    return judge


def resolve_contrasts(
    config: CompareConfig, trained: Sequence[str], rows: Sequence[str]
) -> tuple[Contrast, ...] | None:
    """The comparisons that were asked for; else those of a confirmation, or None where there is nothing to be declared.

    Raises UserError with a line for each that does not name two rows of the board, once, or a metric.
    """
    confirmed = config.protocol == "confirm"
    if config.comparisons is None:
        return tuple(by_default(trained, rows)[0]) if confirmed else None
    problems, found = Problems(), list[Contrast]()
    for text in config.comparisons:
        one = problems.attempt(parse_contrast, text, PRIMARY if confirmed else HEADLINE)
        if one is None:
            continue
        if one.of_best and not (confirmed and len(trained) > 1):
            told = "--comparisons: 'best:rest' needs --protocol confirm and at least two methods that train"
            problems.append(Problem(told))
            continue
        before = len(problems)
        problems.attempt(check_contrasts, [*found, one], rows)
        found += [one] * (len(problems) == before)
    problems.check()
    return tuple(found)
