"""Whether a comparison can work: looked at in a worker process, before anything is trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import Split
from sails_eval.data.overlap import check_overlaps
from sails_eval.data.reading import DataFile, read_contrast, read_examples
from sails_eval.judges import judge_of
from sails_eval.judges.cache import VerdictCache
from sails_eval.methods import initialisations
from sails_eval.methods.subspace.prepare import initialisation_of, saved_rank
from sails_eval.methods.subspace.saes import load_saes
from sails_eval.models.chat import instructed
from sails_eval.models.engines import HF, VLLM, engine_of
from sails_eval.models.hub import fetch
from sails_eval.models.loaded import base_of
from sails_eval.models.saved_adapter import max_rank
from sails_eval.plan.plan import EvaluationPlan, ReferenceModel, SubRun
from sails_eval.plan.problems import Problems
from sails_eval.tasks.library import TaskInfo, has_docs, prompts_of
from sails_eval.training.batches import examples_per_step, lay_out, tokens_of, training_rows
from sails_eval.training.contrasted import contrasted

MEASURED = 64
"""Training examples that SAEs are measured on."""


@dataclass(frozen=True)
class Layout:
    """What a seed's cells are trained on: the same for every method of one objective, where tokens are matched.

    `of` is that objective, else the method.
    """

    of: str
    seed: int
    tokens: int
    steps: int
    unique_examples: int


@dataclass(frozen=True)
class Checked:
    """What a check found: the layout of every seed's batches, what of the training data is left out, and the device.

    `beware` is what to know of the model.
    """

    layouts: list[Layout]
    notes: list[str]
    beware: tuple[str, ...] = ()
    device: str = ""


def check(sub_run: SubRun) -> Checked:
    """See that a comparison can work, before anything is trained."""
    check_evaluation(sub_run)
    checked = check_training(sub_run)
    return replace(checked, notes=[*checked.notes, *_overlaps(sub_run)], device=device(sub_run))


def device(plan: EvaluationPlan) -> str:
    """What models run on here, as a person would call it."""
    import torch

    return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else "CPU"


def _overlaps(sub_run: SubRun) -> list[str]:
    """Prompts that are asked and trained on, too. Raises UserError where these are many and not allowed."""
    pair = sub_run.pair
    assert pair.train is not None
    seen = {"the training data": read_examples(pair.train)}
    if pair.contrast is not None:
        seen["the contrast data"] = read_contrast(pair.contrast)
    return overlaps(sub_run, seen)


def overlaps(plan: EvaluationPlan, seen: Mapping[str, DataFile]) -> list[str]:
    """Prompts that are asked and stand in data of these names, too. Raises UserError where these are many and not
    allowed."""
    asked = {
        f"task '{task.name}', {split}": prompts_of(task, split)
        for task in plan.tasks
        if not task.seen_in_training and task.kind != "capability"
        for split in get_args(Split)
        if has_docs(task, split)
    }
    requests = {name: [example.messages[-1].content for example in file.examples] for name, file in seen.items()}
    return check_overlaps(asked, requests, allowed=plan.allow_overlap)


def check_evaluation(plan: EvaluationPlan) -> None:
    """See that model, judge and tasks can be loaded and fit. Raises UserError for the first that does not."""
    from sails_eval.models.base import load_tokenizer

    pair = plan.pair
    # another engine has the weights to itself, where nothing is trained
    tokenizer = base_of(pair).tokenizer if plan.engine == HF else load_tokenizer(pair)
    check_judge(plan)
    _check_documents(plan, pair, tokenizer, "test", plan.tasks)
    if isinstance(plan, SubRun):
        _check_documents(plan, pair, tokenizer, "validation", plan.validation_tasks)


def check_judge(plan: EvaluationPlan) -> None:
    """See that the judge is there. Raises UserError where it is not."""
    judge = judge_of(plan.judge.spec)
    judge.check()
    if not judge.parallel:
        VerdictCache().close()


def check_reference(job: tuple[EvaluationPlan, ReferenceModel]) -> None:
    """See that a row that nothing is trained for could answer the test. Raises UserError where it could not."""
    from sails_eval.models.base import applied, load_tokenizer

    plan, row = job
    if row.chats:
        engine_of(row.engine, row.pair).check((), {})
        return
    if row.engine == HF:
        tokenizer = base_of(row.pair).tokenizer
    else:
        fetch(row.pair.model, row.pair.revision)
        tokenizer = load_tokenizer(row.pair)
    with instructed(tokenizer, row.system_prompt):
        _check_documents(plan, row.pair, tokenizer, "test", row.tasks(plan.tasks))
    if row.checkpoint is not None and row.engine == HF:
        with applied(base_of(row.pair), row.checkpoint):
            pass


def _check_documents(plan: EvaluationPlan, pair: Pair, tokenizer: Any, split: Split, tasks: Sequence[TaskInfo]) -> None:
    from sails_eval.models.base import context_of
    from sails_eval.tasks.answer import check_documents

    context, limit, engine = context_of(pair), plan.limit, plan.engine
    for task in tasks:
        check_documents(task, split, tokenizer=tokenizer, context=context, limit=limit, engine=engine)


def check_engine(plan: EvaluationPlan) -> None:
    """Start the engine, and see that what is to be trained could answer there. Raises UserError where it could not."""
    pair, recipes = plan.pair, plan.recipes if isinstance(plan, SubRun) else ()
    adapters = [recipe for recipe in recipes if recipe.parameters == "adapter"]
    highest = max(adapters, key=lambda recipe: recipe.rank(pair), default=None)
    if plan.engine == VLLM and highest and (rank := highest.rank(pair)) > (limit := max_rank(pair)):
        raise UserError(
            f"method '{highest.name}' has rank {rank}, but vLLM is started for ranks up to {limit}; set 'engine: "
            f"{{max_lora_rank: {rank}}}' in the pair's YAML"
        )
    saved = {recipe.name: saved_rank(pair, recipe) for recipe in adapters}
    engine_of(plan.engine, pair).check(recipes, saved)


def check_training(sub_run: SubRun) -> Checked:
    """See that data, SAEs and target modules fit the model. Raises UserError with a line for all that does not."""
    from sails_eval.models.probe import doubts
    from sails_eval.plan.cost.meta_model import shape_of
    from sails_eval.plan.cost.model_checks import check_methods, check_saes, check_tokens, notes_on
    from sails_eval.training.optimiser import check_optimiser

    pair, base, problems = sub_run.pair, base_of(sub_run.pair), Problems()
    assert pair.train is not None
    problems.attempt(check_optimiser, pair)
    problems.attempt(check_saes, pair, shape_of(pair), sub_run.recipes)
    problems += check_methods(base.model, shape_of(pair), pair, sub_run.recipes)
    problems.attempt(check_tokens, base.tokenizer, base.model, read_examples(pair.train).examples)
    for recipe in sub_run.recipes:
        if recipe.init and not problems:
            problems.attempt(_check_start, sub_run, recipe)
    for name in _sae_sets(sub_run) if not problems else ():
        problems.attempt(check_sae_quality, pair, base.model, load_saes(pair, base.model, name))
    problems.check()
    rows = training_rows(sub_run.pair)
    layouts = []
    budget = sub_run.budget
    alike = {
        recipe.name if budget.tokens or recipe.name in budget.examples else recipe.objective: recipe
        for recipe in sub_run.recipes
    }
    for (name, recipe), seed in product(alike.items(), sub_run.all_seeds):
        cell, objective = sub_run.cell(recipe, 0.0, seed), recipe.objective
        pair = cell.budget(sub_run.pair)
        order = lay_out(rows, pair, seed=seed, objective=objective)
        tokens = sum(tokens_of(rows[i], objective) for i in order)
        steps = len(order) // examples_per_step(pair, objective)
        if steps < sub_run.checkpoints:
            raise UserError(
                f"--checkpoints {sub_run.checkpoints}: {name} trains for only {steps} steps with seed {seed}; give "
                f"--checkpoints {steps} or fewer, or more --tokens"
            )
        layouts.append(Layout(name, seed, tokens, steps, len(set(order))))
    beware = (*notes_on(pair, base.tokenizer, base.model), *doubts(base.model, pair))
    return Checked(layouts, _left_out(sub_run.pair), beware)


def _sae_sets(sub_run: SubRun) -> set[str | None]:
    """The sets of SAEs that initialisations read, and whose quality counts."""
    if sub_run.config.allow_poor_saes:
        return set()
    starts = initialisations(sub_run.recipes)
    return {start.sae_set for start in starts if "saes" in start.needs}


def _check_start(sub_run: SubRun, recipe: Recipe) -> None:
    """See that an initialisation has what it needs, and for every seed something to contrast. Raises UserError."""
    pair = sub_run.pair
    start, _ = initialisation_of(pair, recipe)
    for seed in sub_run.starts(recipe):
        contrasted(start, pair, recipe, seed=seed, tokenizer=base_of(pair).tokenizer)


def check_sae_quality(pair: Pair, model: Any, saes: Mapping[int, Any]) -> None:
    """Raises UserError for a SAE that explains too little of what the model has on the first training examples."""
    from sails_eval.methods.subspace.activations import activations
    from sails_eval.methods.subspace.sae_quality import USABLE, quality
    from sails_eval.methods.subspace.text_windows import Window

    windows = [Window(row.input_ids) for row in training_rows(pair)[:MEASURED]]
    for layer, vectors in activations(model, list(saes), windows).items():
        if (explained := quality(saes[layer], vectors).explained) < USABLE:
            raise UserError(
                f"pair '{pair.name}': the SAE of layer {layer} explains only {explained:.2f} of the variance of the "
                f"model's activations on the training data, less than {USABLE:g}, so its features mean little; give "
                "other SAEs (see: sails-eval pairs check, sails-eval saes train), or --allow-poor-saes"
            )


def _left_out(pair: Pair) -> list[str]:
    """What of the training data is not trained on, or not as it stands."""
    assert pair.train is not None
    data = read_examples(pair.train)
    notes = [*data.odd, *data.left_out]
    dropped = len(data.examples) - len(training_rows(pair))
    if dropped:
        notes.append(
            f"{pair.train.name}: {dropped} examples left out, since their request is longer than "
            f"max_length={pair.max_length} tokens"
        )
    cut = sum(len(row.input_ids) == pair.max_length for row in training_rows(pair))
    if cut:
        notes.append(f"{pair.train.name}: {cut} answers truncated at max_length={pair.max_length} tokens")
    return notes


def check_examples(sub_run: SubRun, checked: Checked) -> None:
    """Raises UserError where a cell would not see all its labelled examples: the curve over them would lie."""
    least = min(checked.layouts, key=lambda layout: layout.unique_examples)
    wanted = sub_run.size.examples
    if wanted is None or least.unique_examples >= wanted:
        return
    train, tokens = sub_run.pair.train, sub_run.pair.tokens
    assert train is not None
    held = len(read_examples(train).examples)
    share = sub_run.budget.tokens.get(least.of, tokens) / tokens
    enough = f"--tokens {round(least.tokens / share * wanted / least.unique_examples)}"
    if sub_run.pair.steps:
        enough = f"--steps {math.ceil(sub_run.pair.steps * wanted / least.unique_examples)}"
    fix = f"{train.name} has only {held}, so give fewer" if held < wanted else f"give about {enough} or more"
    raise UserError(
        f"--examples {wanted}: cells of pair '{sub_run.pair.name}' would see only {least.unique_examples} "
        f"different examples; {fix}"
    )
