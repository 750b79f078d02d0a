"""Whether a comparison can work: looked at in a worker process, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_args

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.records import Split
from sails_eval.data.overlap import check_overlaps
from sails_eval.data.reading import DataFile, read_contrast, read_examples
from sails_eval.judges import judge_of
from sails_eval.judges.cache import VerdictCache
from sails_eval.methods.subspace.prepare import initialisation_of
from sails_eval.models.engines import HF, VLLM, engine_of
from sails_eval.models.hub import fetch
from sails_eval.models.loaded import base_of
from sails_eval.models.saved_adapter import max_rank
from sails_eval.plan.parts import Part
from sails_eval.plan.setup import Finished, Setup
from sails_eval.tasks.library import TaskInfo, has_docs, prompts_of
from sails_eval.training.batches import examples_per_step, lay_out, tokens_of, training_rows


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
    """What a check found: the layout of every seed's batches, and what of the training data is left out."""

    layouts: list[Layout]
    notes: list[str]


def check(setup: Setup) -> Checked:
    """See that a comparison can work, before anything is trained."""
    check_evaluation(setup)
    checked = check_training(setup)
    return replace(checked, notes=[*checked.notes, *_overlaps(setup)])


def _overlaps(setup: Setup) -> list[str]:
    """Prompts that are asked and trained on, too. Raises UserError where these are many and not allowed."""
    pair = setup.pair
    assert pair.train is not None
    seen = {"the training data": read_examples(pair.train)}
    if pair.contrast is not None:
        seen["the contrast data"] = read_contrast(pair.contrast)
    return overlaps(setup, seen)


def overlaps(setup: Setup, seen: Mapping[str, DataFile]) -> list[str]:
    """Prompts that are asked and stand in data of these names, too. Raises UserError where these are many and not
    allowed."""
    asked = {
        f"task '{task.name}', {split}": prompts_of(task, split)
        for task in setup.tasks
        if not task.seen_in_training and task.kind != "capability"
        for split in get_args(Split)
        if has_docs(task, split)
    }
    requests = {name: [example.messages[-1].content for example in file.examples] for name, file in seen.items()}
    return check_overlaps(asked, requests, allowed=setup.allow_overlap)


def check_evaluation(setup: Setup) -> None:
    """See that model, judge and tasks can be loaded and fit. Raises UserError for the first that does not."""
    from sails_eval.models.base import load_tokenizer

    pair = setup.pair
    # another engine has the weights to itself, where nothing is trained
    tokenizer = base_of(pair).tokenizer if setup.engine == HF else load_tokenizer(pair)
    check_judge(setup)
    _check_documents(setup, pair, tokenizer, "test", setup.tasks)
    if setup.recipes:
        _check_documents(setup, pair, tokenizer, "validation", setup.validation_tasks)


def check_judge(setup: Setup) -> None:
    """See that the judge is there. Raises UserError where it is not."""
    judge = judge_of(setup.judge)
    judge.check()
    if not judge.parallel:
        VerdictCache().close()


def check_finished(job: tuple[Setup, Finished]) -> None:
    """See that a row that nothing is trained for could answer the test. Raises UserError where it could not."""
    from sails_eval.models.base import applied, load_tokenizer
    from sails_eval.models.chat import instructed

    setup, row = job
    if row.chats:
        engine_of(row.engine, row.pair).check((), {})
        return
    if row.engine == HF:
        tokenizer = base_of(row.pair).tokenizer
    else:
        fetch(row.pair.model, row.pair.revision)
        tokenizer = load_tokenizer(row.pair)
    with instructed(tokenizer, row.system_prompt):
        _check_documents(setup, row.pair, tokenizer, "test", row.tasks(setup.tasks))
    if row.checkpoint is not None and row.engine == HF:
        with applied(base_of(row.pair), row.checkpoint):
            pass


def _check_documents(setup: Setup, pair: Pair, tokenizer: Any, split: Split, tasks: Sequence[TaskInfo]) -> None:
    from sails_eval.models.base import context_of
    from sails_eval.tasks.answer import check_documents

    for task in tasks:
        check_documents(task, split, tokenizer=tokenizer, context=context_of(pair), limit=setup.limit)


def check_engine(setup: Setup) -> None:
    """Start the engine, and see that what is to be trained could answer there. Raises UserError where it could not."""
    from sails_eval.methods.subspace.base_weights import saved_rank

    ranks = {recipe.name: recipe.rank(setup.pair) for recipe in setup.recipes if recipe.parameters == "adapter"}
    highest = max(ranks, key=lambda name: ranks[name], default="")
    if setup.engine == VLLM and highest and ranks[highest] > (limit := max_rank(setup.pair)):
        raise UserError(
            f"method '{highest}' has rank {ranks[highest]}, and vLLM is started for {limit}; set 'engine: "
            f"{{max_lora_rank: {ranks[highest]}}}' in the pair's YAML"
        )
    saved = {recipe.name: saved_rank(setup.pair, recipe) for recipe in setup.recipes if recipe.parameters == "adapter"}
    engine_of(setup.engine, setup.pair).check(setup.recipes, saved)


def check_training(setup: Setup) -> Checked:
    """See that data, SAEs and target modules fit the model. Raises UserError for the first that does not."""
    from sails_eval.models.adapters import adapter_config
    from sails_eval.training.cell import check_target_modules
    from sails_eval.training.trainers import check_optimiser

    check_optimiser(setup.pair)
    check_target_modules(base_of(setup.pair).model, setup.pair)
    for recipe in setup.recipes:
        if recipe.parameters == "adapter":
            adapter_config(setup.pair, recipe)
        if recipe.init:
            initialisation_of(setup.pair, recipe)
    rows = training_rows(setup.pair)
    layouts = []
    alike = {recipe.name if setup.tokens else recipe.objective: recipe for recipe in setup.recipes}
    for (name, recipe), seed in product(alike.items(), range(setup.seeds)):
        pair, objective = setup.pair.model_copy(update={"tokens": setup.tokens_of(recipe)}), recipe.objective
        order = lay_out(rows, pair, seed=seed, objective=objective)
        tokens = sum(tokens_of(rows[i], objective) for i in order)
        steps = len(order) // examples_per_step(pair, objective)
        if steps < setup.checkpoints:
            raise UserError(
                f"--checkpoints {setup.checkpoints}: {name} takes {steps} steps with seed {seed}; give --checkpoints "
                f"{steps} or fewer, or more --tokens"
            )
        layouts.append(Layout(name, seed, tokens, steps, len(set(order))))
    return Checked(layouts, _left_out(setup.pair))


def _left_out(pair: Pair) -> list[str]:
    """What of the training data is not trained on, or not as it stands."""
    assert pair.train is not None
    data = read_examples(pair.train)
    notes = [*data.odd, *data.left_out]
    dropped = len(data.examples) - len(training_rows(pair))
    if dropped:
        notes.append(f"{pair.train.name}: {dropped} requests longer than max_length={pair.max_length} tokens left out")
    cut = sum(len(row.input_ids) == pair.max_length for row in training_rows(pair))
    if cut:
        notes.append(f"{pair.train.name}: {cut} answers cut at max_length={pair.max_length} tokens")
    return notes


def check_budgets(parts: Sequence[Part], checked: Sequence[Checked]) -> None:
    """Raises UserError where a cell would not see all the labelled examples of its budget: the curve would lie."""
    for part, found in zip(parts, checked, strict=True):
        least = min(found.layouts, key=lambda layout: layout.unique_examples)
        if part.examples is None or least.unique_examples >= part.examples:
            continue
        train = part.setup.pair.train
        assert train is not None
        held = len(read_examples(train).examples)
        share = part.setup.tokens.get(least.of, part.setup.pair.tokens) / part.setup.pair.tokens
        enough = round(least.tokens / share * part.examples / least.unique_examples)
        fix = f"{train.name} has {held}" if held < part.examples else f"give about --tokens {enough} or more"
        raise UserError(
            f"--examples {part.examples}: the cells of '{part.pair}' would see {least.unique_examples} different "
            f"examples only; {fix}"
        )
