"""`sails-eval plan`: what a comparison takes, and what is missing for it, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.device import on_device
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import Match
from sails_eval.data.reading import read_examples
from sails_eval.judges.spec import is_cascade, parse
from sails_eval.models.answer_batches import at_a_time, bytes_of_answer
from sails_eval.models.engines import OPENAI
from sails_eval.plan.budget import Cost, ranked, share_out
from sails_eval.plan.cost.fitting import fitting
from sails_eval.plan.cost.machine import Machine
from sails_eval.plan.cost.meta_model import Shape, shape_of
from sails_eval.plan.cost.method_cost import flops_costs, matched_ranks
from sails_eval.plan.cost.model_checks import check_model
from sails_eval.plan.cost.step_cost import Memory, StepCost, answering_memory, cost_of, features_memory, readings
from sails_eval.plan.plan import REFINED, SubRun
from sails_eval.plan.prepare import Draft, at_size, grid, survey
from sails_eval.plan.problems import Problem, Problems, if_it_can
from sails_eval.plan.resolve import sizes, tuning_size
from sails_eval.tasks.library import describe

ANSWER_TOKENS = 512
"""Tokens assumed of an answer where nothing says better, and of a prompt."""

JUDGE_TOKENS = (1200, 100)
"""Prompt and reply tokens assumed of a judge's call."""

CHARACTERS_PER_TOKEN = 4

SLOW_WITHOUT_GPU = 10**8
"""Parameters from which training without a GPU is no use."""

FEATURES, ANSWERING = "SAE features", "answering"
"""The stages of a comparison besides its methods."""

MARGIN = 1.15
"""How far the estimate of memory has to be above what there is before it stops a run."""


@dataclass(frozen=True)
class Prompts:
    """Judged prompts by split; `unknown` names tasks whose documents are on the hub and not counted."""

    validation: int = 0
    test: int = 0
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """What a comparison of a pair takes.

    `seeds` are tested; where rates are tuned on others, these are `tuned_on`, and `rates` counts all that are tried.
    `budgets` are in the grid of which this is the largest. `costs` has a step of every recipe that trains, `untrained`
    counts the other rows, `steps` is None without training data. `tokens` are those of a cell of each recipe, and
    `cell_costs` what it takes of FLOPs, where these are matched and known.
    """

    pair: Pair
    recipes: tuple[Recipe, ...]
    untrained: int
    seeds: int
    rates: int
    steps: int | None
    prompts: Prompts
    checkpoints: int
    machine: Machine
    problems: tuple[Problem, ...] = ()
    shape: Shape | None = None
    costs: Mapping[str, StepCost] = field(default_factory=dict)
    stages: Mapping[str, Memory] = field(default_factory=dict)
    tuned_on: int = 0
    budgets: int = 1
    match: Match = "tokens"
    tokens: Mapping[str, int] = field(default_factory=dict)
    cell_costs: Mapping[str, Cost] = field(default_factory=dict)

    def flops_per_token(self, name: str) -> float:
        """Of a recipe's training: on its examples with their padding where that is known, else on the longest."""
        return self.cell_costs[name].per_token if self.cell_costs else self.costs[name].flops_per_token

    @property
    def cells(self) -> int:
        """Of one method."""
        return self.validated + (self.seeds if self.tuned_on else 0)

    @property
    def validated(self) -> int:
        """The cells of one method that choose its rate."""
        return (self.tuned_on or self.seeds) * self.rates

    @property
    def answers(self) -> tuple[int, int]:
        """The fewest and the most: the test is answered at one rate of every method, or at all of them if those that
        are tested choose."""
        methods = len(self.recipes)
        validated = (methods * self.validated * self.checkpoints + 1) * self.prompts.validation
        tested = (self.seeds, self.seeds if self.tuned_on else self.cells)
        least, most = ((methods * n + self.untrained) * self.prompts.test for n in tested)
        return validated + least, validated + most

    @property
    def calls(self) -> tuple[int, int]:
        """The fewest and the most verdicts: in a cascade the first judge may have one on every answer."""
        judge = self.pair.judge or ""
        judges = len(parse(judge)) if judge else 0
        return (min(1, judges) if is_cascade(judge) else judges) * self.answers[0], judges * self.answers[1]

    def judge_cost(self, calls: int) -> float | None:
        """USD of so many verdicts by those judges that state prices; None where one behind an endpoint states none."""
        asked = [spec for spec in parse(self.pair.judge or "rules") if spec.kind == OPENAI]
        if any("price_in" not in spec.options for spec in asked):
            return None
        each = [[float(spec.options[key]) for key in ("price_in", "price_out")] for spec in asked]
        share = calls / max(1, len(parse(self.pair.judge or "rules")))
        return sum(share * (p * JUDGE_TOKENS[0] + r * JUDGE_TOKENS[1]) / 1e6 for p, r in each)

    @property
    def disk(self) -> tuple[int, int]:
        """Bytes of checkpoints: of all cells, which are there until rates are chosen, and of those kept by default.

        An adapter has single precision, a whole model the pair's dtype.
        """
        each, width = 0, 4 if self.pair.dtype == "float32" else 2
        for recipe in self.recipes if self.costs else ():
            cost = self.costs[recipe.name]
            each += 4 * cost.added if recipe.parameters == "adapter" else width * cost.total
        return self.cells * self.checkpoints * each, self.seeds * each


@on_device
def forecast(config: CompareConfig) -> list[Forecast]:
    """The forecast of every pair of a comparison. Raises UserError for what is no comparison at all."""
    sizes = grid(config)
    drafts = survey(at_size(config, max(sizes)))
    for draft in drafts:
        if draft.pair is None or not draft.recipes:
            draft.problems.check()
    return [replace(_forecast(draft), budgets=len(sizes)) for draft in drafts]


def check_machine(sub_runs: Sequence[SubRun]) -> list[Pair]:
    """The sub-runs' pairs with micro-batches that fit. Raises UserError where a comparison surely does not fit."""
    drafts = [Draft(one.config, Problems(), one.pair, one.recipes, tasks=one.tasks) for one in sub_runs]
    made = [_forecast(draft) for draft in drafts]
    Problems(problem for one in made for problem in one.problems).check()
    return [one.pair for one in made]


def _forecast(draft: Draft) -> Forecast:
    config, pair, recipes = draft.config, draft.pair, draft.recipes
    assert pair is not None
    (seeds, rates), tuned_on = sizes(config, recipes), tuning_size(config)
    rates += REFINED if tuned_on and rates > 1 else 0
    problems, untrained = draft.problems, 1 + len(draft.prompts) + len(config.reference)
    steps, prompts, machine = steps_of(pair), _prompts(draft), Machine.this()
    made = Forecast(pair, recipes, untrained, seeds, rates, steps, prompts, config.checkpoints, machine)
    made = replace(made, tuned_on=tuned_on)
    if made.steps is not None and made.steps < made.checkpoints:  # by an estimate; compare counts them
        told = f"--checkpoints {made.checkpoints}: a cell takes about {made.steps} steps; give fewer, or more --tokens"
        problems.append(Problem(told, stops=False))
    shape = problems.attempt(shape_of, pair)
    if shape is None:
        return replace(made, problems=problems.different)
    problems += (unfit := check_model(shape, pair, recipes))
    if unfit.stopping:
        return replace(made, problems=problems.different)
    if config.match_params:
        recipes = ranked(pair, recipes, matched_ranks(pair, recipes))
    if (found := problems.ask(readings, shape, pair, recipes)) is None:
        return replace(made, problems=problems.different)
    asked, pair = pair, fitting(pair, recipes, found=found, shape=shape, machine=machine)
    costs = {recipe.name: cost_of(found[recipe.name], shape, pair, recipe) for recipe in recipes}
    total = next(iter(costs.values())).total
    stages = {recipe.name: costs[recipe.name].memory for recipe in recipes}
    if any(recipe.init for recipe in recipes):
        stages[FEATURES] = features_memory(shape, pair, parameters=total)
    each = bytes_of_answer(pair, shape.text, 2 * ANSWER_TOKENS)
    answers = at_a_time(pair, each=each, parameters=total, memory=machine.memory, gpu=machine.gpu)
    stages[ANSWERING] = answering_memory(shape, pair, parameters=total, tokens=2 * ANSWER_TOKENS, answers=answers)
    pair = pair.model_copy(update={"eval_batch_size": answers})
    made = replace(made, pair=pair, recipes=recipes, shape=shape, costs=costs, stages=stages, match=config.match)
    problems += _machine_problems(made, asked)
    made = replace(made, problems=problems.different)
    return _shared_out(made, draft) if config.match == "flops" else made


def _shared_out(made: Forecast, draft: Draft) -> Forecast:
    """The forecast with the tokens of each recipe, or what stands in their way."""
    assert draft.pair is not None
    try:
        cell_costs = flops_costs(draft.pair, made.recipes)  # the same on every machine, so without what fits this one
    except UserError as error:
        told = f"--match flops: the number of tokens of each method is not known yet ({error})"
        return replace(made, problems=(*made.problems, Problem(told, stops=False)))
    try:
        return replace(made, cell_costs=cell_costs, tokens=share_out(cell_costs, made.pair.tokens, made.match))
    except UserError as error:
        return replace(made, problems=(*made.problems, Problem(str(error))))


def _machine_problems(made: Forecast, asked: Pair) -> Iterator[Problem]:
    """What the machine has too little of; `asked` is the pair before its micro-batches were fitted to memory. Memory
    stops a run only from models on that are not toys: estimates are for the longest examples, which a small model's
    data may not have."""
    machine, total = made.machine, next(iter(made.costs.values())).total
    large = total >= SLOW_WITHOUT_GPU
    if large and not machine.gpu:
        yield Problem(f"no GPU: {total / 1e9:.1f} B parameters would be trained on the CPU", stops=False)
    for stage, memory in made.stages.items():
        if memory.peak > machine.memory:
            told = f"memory: {stage} needs about {size_text(memory.peak)}, "
            told += f"{machine.device} has {size_text(machine.memory)}; "
            told += _less_memory(stage, asked)
            yield Problem(told, stops=large and memory.peak > MARGIN * machine.memory)
    if made.disk[0] > machine.disk:
        told = f"disk: checkpoints need up to {size_text(made.disk[0])} until learning rates are chosen, "
        told += f"{size_text(machine.disk)} are free; free some space, or give fewer --seeds or --learning-rates"
        yield Problem(told, stops=large)


def _less_memory(stage: str, pair: Pair) -> str:
    """How to fit into memory, as far as the pair's settings don't do it already."""
    if stage in (FEATURES, ANSWERING):
        lower = "--max-length" if stage == FEATURES else "--eval-batch-size"
        return f"lower {lower}, or use a machine with more memory"
    if pair.micro_batch_size in (None, 1) and pair.gradient_checkpointing is not False:
        return f"lower --max-length, leave out method {stage}, or use a machine with more memory"
    return "set --micro-batch-size auto and --gradient-checkpointing auto, or lower --max-length"


def steps_of(pair: Pair) -> int | None:
    """Optimiser steps of a cell, as they are given or estimated; None where the training data cannot be had."""
    a_step = tokens_a_step(pair)
    return pair.steps or (None if a_step is None else max(1, round(pair.tokens / a_step)))


def tokens_a_cell(pair: Pair) -> int:
    """What a cell is trained on, as given, or where steps are given by an estimate (1 where there is none)."""
    return pair.tokens if pair.steps is None else round(pair.steps * (tokens_a_step(pair) or 0)) or 1


def tokens_a_step(pair: Pair) -> float | None:
    """The mean tokens of a batch, from the characters of the training data; None where that cannot be had."""
    data = if_it_can(read_examples, pair.train) if pair.train else None
    if data is None:
        return None
    texts = (sum(len(m.content) for m in e.messages) + len(e.response) for e in data.examples)
    tokens = [min(pair.max_length, 1 + n // CHARACTERS_PER_TOKEN) for n in texts]
    return pair.batch_size * sum(tokens) / len(tokens)


def _prompts(draft: Draft) -> Prompts:
    """The prompts whose answers are judged. Tasks that are not there count as none: the draft's problems tell so."""
    rows = [row for row in describe(draft.tasks) if row.kind != "capability"]
    most = draft.config.limit or 10**9
    return Prompts(
        sum(min(most, row.validation or 0) for row in rows),
        sum(min(most, row.test or 0) for row in rows),
        tuple(row.name for row in rows if row.test is None),
    )


# --- in words -----------------------------------------------------------------------------------------------------


def size_text(n: int) -> str:
    """Bytes in a unit that fits."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"
