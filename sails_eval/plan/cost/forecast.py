"""`sails-eval plan`: what a comparison takes, and what is missing for it, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.device import on_device
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.tables import fitted, wrapped
from sails_eval.core.training_settings import Match
from sails_eval.data.reading import read_examples
from sails_eval.judges.spec import parse
from sails_eval.models.engines import OPENAI
from sails_eval.models.hub import PLAIN, lacks_access, template_of
from sails_eval.plan.budget import Cost, ranked, share_out
from sails_eval.plan.cost.fitting import fitting
from sails_eval.plan.cost.hours import in_words
from sails_eval.plan.cost.machine import Machine
from sails_eval.plan.cost.meta_model import Shape, shape_of
from sails_eval.plan.cost.method_cost import flops_costs, matched_ranks
from sails_eval.plan.cost.model_checks import check_model
from sails_eval.plan.cost.step_cost import Memory, StepCost, answering_memory, cost_of, features_memory, readings
from sails_eval.plan.plan import REFINED, SubRun
from sails_eval.plan.prepare import Draft, at_size, grid, survey
from sails_eval.plan.problems import Problem, Problems
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
        """The fewest and the most verdicts."""
        judges = len(parse(self.pair.judge)) if self.pair.judge else 0
        return judges * self.answers[0], judges * self.answers[1]

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
    asked, pair = pair, fitting(pair, recipes, found=found, shape=shape, memory=machine.memory)
    costs = {recipe.name: cost_of(found[recipe.name], shape, pair, recipe) for recipe in recipes}
    total = next(iter(costs.values())).total
    stages = {recipe.name: costs[recipe.name].memory for recipe in recipes}
    if any(recipe.init for recipe in recipes):
        stages[FEATURES] = features_memory(shape, pair, parameters=total)
    stages[ANSWERING] = answering_memory(shape, pair, parameters=total, tokens=2 * ANSWER_TOKENS)
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
            told = f"memory: {stage} needs about {_size(memory.peak)}, {machine.device} has {_size(machine.memory)}; "
            told += _less_memory(stage, asked)
            yield Problem(told, stops=large and memory.peak > MARGIN * machine.memory)
    if made.disk[0] > machine.disk:
        told = f"disk: checkpoints need up to {_size(made.disk[0])} until learning rates are chosen, "
        told += f"{_size(machine.disk)} are free; free some space, or give fewer --seeds or --learning-rates"
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
    if pair.train is None:
        return None
    try:
        examples = read_examples(pair.train).examples
    except UserError:
        return None
    texts = (sum(len(m.content) for m in e.messages) + len(e.response) for e in examples)
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


def render(made: Forecast) -> str:
    """A forecast as a person reads it."""
    pair, methods = made.pair, len(made.recipes)
    where = f" ({made.shape.source})" if made.shape else ""
    lines = [
        f"{pair.name}: {pair.model}{where}",
        f"  cells       {methods} methods × {_of_method(made)} = {methods * made.cells}",
        f"  a cell      {_length(made)}",
        f"  labels      {_labels(pair)}",
        f"  model       {_model(made)}",
    ]
    if made.budgets > 1:
        lines += [f"  budgets     {made.budgets}; the numbers here are for the largest one"]
    if made.checkpoints > 1:
        trials = made.rates * made.checkpoints
        lines += [f"  trials      {made.rates} rates × {made.checkpoints} checkpoints = {trials} per method and seed"]
    if made.match != "tokens":
        measured = " (known once the speed of each is measured)" if made.match == "seconds" else ""
        lines += [f"  matched     {made.match}: more expensive methods get fewer tokens{measured}"]
    if made.costs:
        of_each = {recipe.name: made.tokens.get(recipe.name, tokens_a_cell(pair)) for recipe in made.recipes}
        flops = sum(made.flops_per_token(name) * n for name, n in of_each.items()) * made.cells
        padding = "with" if made.cell_costs else "without"
        lines += ["", *_methods(made), "", f"  training    {flops:.2e} FLOPs for all cells, {padding} padding"]
        if next(iter(made.costs.values())).total >= SLOW_WITHOUT_GPU:
            tokens = pair.max_new_tokens or ANSWER_TOKENS
            answers = 0 if made.prompts.unknown else made.answers[1]
            size = {"answers": answers, "tokens": tokens, "at_a_time": pair.eval_batch_size}
            lines += [f"  hours       {in_words(made.machine.device, flops=flops, **size)}"]
        lines += ["", *_memory(made)]
    lines += ["", _judging(made)]
    if made.costs:
        all_cells, kept = made.disk
        lines += [
            f"  disk        {_size(all_cells)} of checkpoints until learning rates are chosen, {_size(kept)} kept; "
            f"{_size(made.machine.disk)} free"
        ]
    lines += ["", "  missing:" if made.problems else "  nothing is missing"]
    lines += [f"  - {one.told}{'' if one.stops else ' (a note)'}" for one in made.problems]
    return "\n".join(wrapped(line, indent=14) for line in lines)


def _length(made: Forecast) -> str:
    """How long a cell is trained."""
    pair = made.pair
    steps = "number of steps unknown without the training data" if made.steps is None else f"about {made.steps} steps"
    if pair.steps is None:
        return f"{pair.tokens:,} tokens in batches of {pair.batch_size}, {steps}"
    return f"about {tokens_a_cell(pair):,} tokens in batches of {pair.batch_size}, {pair.steps} steps"


def _model(made: Forecast) -> str:
    """How the model is run and asked."""
    pair, lack = made.pair, None
    if pair.chat_template is None:
        lack = lacks_access(pair.model, pair.revision, known_gated=pair.gated)
    template = None if lack else template_of(pair)
    asked = template.name if template else "not known yet" if lack else "the tokenizer's own"
    told = [pair.dtype, *([pair.attn_implementation] if pair.attn_implementation else [])]
    told += [f"chat template: {asked}{' (the tokenizer has none)' if template == PLAIN else ''}"]
    if made.costs:
        told += [pair.batches]
    return ", ".join(told)


def _of_method(made: Forecast) -> str:
    """The cells of one method."""
    if not made.tuned_on:
        return f"{made.rates} rates × {made.seeds} seeds"
    return f"({made.rates} rates × {made.tuned_on} tuning seeds + {made.seeds} seeds)"


def _labels(pair: Pair) -> str:
    """The labelled examples that a cell sees."""
    drawn = f"{pair.examples:,} examples per seed" if pair.examples else "as many examples as fit into the token budget"
    if pair.contrast_examples == "sample":
        return f"{drawn}; methods that contrast examples use the same ones"
    n = "all" if pair.contrast_examples == "all" else f"{pair.contrast_examples:,} examples"
    return f"{drawn}; methods that contrast examples also see {n} of the contrast data"


def _methods(made: Forecast) -> list[str]:
    rows = [
        ("method", "trained parameters", "share", "GFLOPs per token", *(["tokens per cell"] if made.tokens else []))
    ]
    for recipe in made.recipes:
        cost = made.costs[recipe.name]
        row = (recipe.name, f"{cost.trained:,}", f"{100 * cost.share:.3f} %")
        flops = f"{made.flops_per_token(recipe.name) / 1e9:.3g}"
        rows.append((*row, flops, *([f"{made.tokens[recipe.name]:,}"] if made.tokens else [])))
    return _indented(rows)


def _memory(made: Forecast) -> list[str]:
    parts = ("weights", "gradients", "optimiser", "activations", "kv_cache", "workspace", "peak")
    rows = [("memory", *(part.replace("kv_cache", "KV") for part in parts))]
    rows += [(stage, *(_size(getattr(memory, part)) for part in parts)) for stage, memory in made.stages.items()]
    return [*_indented(rows), f"  {made.machine.device} has {_size(made.machine.memory)}"]


def _judging(made: Forecast) -> str:
    least, most = made.calls
    cost = made.judge_cost(most)
    told = f"{made.prompts.validation} validation and {made.prompts.test} test prompts"
    if cost is None:
        told += "; cost unknown: give the judge's options price_in and price_out"
    else:
        told += f", at most {cost:.2f} USD" if cost else ", at no cost"
    unknown = made.prompts.unknown
    counted = f"{'at least ' if unknown else ''}{least:,} to {most:,} verdicts ({told})" if most else "verdicts unknown"
    line = f"  judge       {made.pair.judge or 'none'}: {counted}"
    if unknown:
        line += f"; not counted, since their data are not here: {', '.join(unknown)}"
    return line


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    return [f"  {line}" for line in fitted(rows, "lr", ("KV", "workspace", "gradients", "optimiser"), margin=2)]


def _size(n: int) -> str:
    """Bytes in a unit that fits."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} B"
