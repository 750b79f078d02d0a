"""What methods cost before anything is trained for real: FLOPs by forecast, seconds by a few steps, ranks by counting.

These run in a worker process.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from statistics import median
from typing import Any

from sails_eval.core.pair import Pair, SaeSource
from sails_eval.core.recipe import Recipe, Span
from sails_eval.core.training_settings import Objective
from sails_eval.methods import load_initialisation
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.methods.subspace.layers import basis_layers
from sails_eval.methods.subspace.prepare import checked_initialisation, initialisation_of
from sails_eval.methods.subspace.settings import Positions
from sails_eval.models.adapters import sizes, target_modules
from sails_eval.models.base import Base, dtype_of, load_tokenizer
from sails_eval.models.loaded import base_of
from sails_eval.plan.budget import Cost, Rank
from sails_eval.plan.cost.meta_model import Shape, on_meta, shape_of, to_train, trained_and_all
from sails_eval.plan.cost.step_cost import TEXTS_AT_A_TIME, forward_flops, sae_width, step_costs
from sails_eval.plan.plan import SubRun
from sails_eval.training.batches import (
    SEQUENCES,
    CellRun,
    TokenRow,
    encoded_training,
    examples_per_step,
    lay_out,
    padded_tokens,
    tokens_of,
    training_rows,
)
from sails_eval.training.cell import trainable
from sails_eval.training.contrasted import contrasted

TIMED_STEPS = 8
"""Optimiser steps whose time is taken, after one that warms up."""

SAE_FLOPS = 6
"""FLOPs of training an SAE, per token and parameter: two forward, four backward (Kaplan et al. 2020, section 2.1)."""


# --- FLOPs --------------------------------------------------------------------------------------------------------


def flops_costs(pair: Pair, recipes: Sequence[Recipe]) -> dict[str, Cost]:
    """FLOPs of every recipe: per non-padding token of training batches, and of its preparation.

    A step is counted on fake tensors at the mean padded length of the batches that the first seed sees.
    """
    shape, tokenizer = shape_of(pair), load_tokenizer(pair)
    rows = encoded_training(tokenizer, pair)
    texts = {objective: _texts(rows, pair, objective) for objective in {recipe.objective for recipe in recipes}}
    costs = step_costs(shape, pair, recipes, lengths={name: length for name, (length, _) in texts.items()})
    costs_of = {}
    for recipe in recipes:
        looking, saes = preparation_flops(recipe, pair, shape, tokenizer)
        per_token = costs[recipe.name].flops_per_token * texts[recipe.objective][1]
        costs_of[recipe.name] = Cost(per_token, looking + saes, saes)
    return costs_of


def _texts(rows: Sequence[TokenRow], pair: Pair, objective: Objective) -> tuple[int, float]:
    """Padded tokens per sequence of training, and per token that counts."""
    seen = [rows[i] for i in lay_out(rows, pair, seed=0, objective=objective)]
    padded = sum(padded_tokens(seen, pair, objective))
    return round(padded / (SEQUENCES[objective] * len(seen))), padded / sum(tokens_of(row, objective) for row in seen)


def preparation_flops(recipe: Recipe, pair: Pair, shape: Shape, tokenizer: Any) -> tuple[float, float]:
    """FLOPs of an initialisation's look at the contrast texts, and of training the SAEs that were made for it.

    Raises UserError where the pair does not have what it needs.
    """
    start = checked_initialisation(pair, recipe)
    saes = pair.sae_sources(start.sae_set) if "saes" in start.needs else ()
    contrast = contrasted(start, pair, recipe, seed=0, tokenizer=tokenizer)
    flops = PreparationFlops(pair, shape, contrast, saes, recipe.rank(pair))
    return start.cost(flops), sae_training_flops(saes, pair, shape)


@dataclass(frozen=True)
class PreparationFlops:
    """What the steps of a preparation take (`methods.Flops`), on texts that SAEs from `sources` read."""

    pair: Pair
    shape: Shape
    contrast: Contrast
    sources: Sequence[SaeSource]
    rank: int

    @property
    def saes(self) -> int:
        return len(self.sources)

    def contrasting(self, positions: Positions) -> float:
        batches = [
            texts[i : i + TEXTS_AT_A_TIME]
            for half in map(Contrast.by_length, self.contrast.halves() if self.sources else (self.contrast,))
            for texts in (half.aligned, half.unaligned)
            for i in range(0, len(texts), TEXTS_AT_A_TIME)
        ]
        padded = [len(batch) * max(len(text.ids) for text in batch) for batch in batches]
        counted = [sum(len(text.positions(positions)) for text in batch) for batch in batches]
        averaging = 2 * sum(len(batch) * n for batch, n in zip(batches, counted, strict=True))  # of every text
        text = self.shape.text
        layers, d = basis_layers(self.sources or self.pair.saes, text.num_hidden_layers), int(text.hidden_size)
        length = round(sum(padded) / sum(map(len, batches)))
        flops = sum(padded) * forward_flops(self.shape, self.pair, layers=layers, length=length)
        for width in [sae_width(sae, d) for sae in self.sources] or [d] * len(layers):
            flops += 2 * d * width * sum(counted) * bool(self.sources)
            flops += averaging * width
        return flops

    def walking(self, texts: Sequence[Sequence[int]], *, at_a_time: int) -> float:
        batches = [texts[i : i + at_a_time] for i in range(0, len(texts), at_a_time)]
        padded, text = sum(len(batch) * max(map(len, batch)) for batch in batches), self.shape.text
        length = round(padded / len(texts))
        layers = forward_flops(self.shape, self.pair, layers=[text.num_hidden_layers - 1], length=length)
        return padded * (layers + 2.0 * int(text.hidden_size) * int(text.vocab_size))

    def target_modules(self) -> list[tuple[int, int]]:
        model = on_meta(self.shape, self.pair, dtype=dtype_of(self.pair))
        return [sizes(module) for module in target_modules(model, self.pair).values()]


def sae_training_flops(saes: Sequence[SaeSource], pair: Pair, shape: Shape) -> float:
    """FLOPs of training those SAEs that were trained for the pair, and of the one walk that their activations took."""
    own = [sae for sae in saes if sae.self_trained]
    if not own:
        return 0.0
    d = int(shape.text.hidden_size)
    deepest = basis_layers(own, shape.text.num_hidden_layers)[-1:]
    walk = forward_flops(shape, pair, layers=deepest, length=min(pair.max_length, 128))
    tokens = [sae.training_tokens or 0 for sae in own]
    training = sum(SAE_FLOPS * 2 * d * sae_width(sae, d) * n for sae, n in zip(own, tokens, strict=True))
    return training + walk * max(n / sae.passes for sae, n in zip(own, tokens, strict=True))


# --- seconds ------------------------------------------------------------------------------------------------------


def seconds_costs(sub_run: SubRun) -> dict[str, Cost]:
    """Seconds of every recipe here: per non-padding token, the median of a few steps, and of its preparation and start.

    What a reference reads before the first step, and the training of SAEs that were made for the recipe, are charged at
    the FLOPs per second of those steps.
    """
    return {recipe.name: _seconds(sub_run, recipe) for recipe in sub_run.recipes}


def _seconds(sub_run: SubRun, recipe: Recipe) -> Cost:
    from sails_eval.training.trainers import fit

    pair = sub_run.pair
    base, rows = base_of(pair), training_rows(pair)
    before, state = 0.0, None
    if recipe.init:
        start, material = initialisation_of(pair, recipe)
        material = replace(material, contrast=contrasted(start, pair, recipe, seed=0, tokenizer=base.tokenizer))
        started = time.perf_counter()
        state, _ = start.prepare(material)
        before = time.perf_counter() - started
    step = examples_per_step(pair, recipe.objective)
    ample = pair.model_copy(update={"tokens": (TIMED_STEPS + 1) * pair.batch_size * pair.max_length})
    order = lay_out(rows, ample, seed=0, objective=recipe.objective)[: (TIMED_STEPS + 1) * step]
    seen, run = [rows[i] for i in order], CellRun(sub_run.rates(recipe)[0], 0, order, state)
    with trainable(base, pair, recipe, run):
        pass  # what is made at first use only is no cost of the method that comes first
    started = time.perf_counter()
    with trainable(base, pair, recipe, run) as model:
        before += time.perf_counter() - started  # PEFT's own starts decompose weights
        fitted = fit(Base(model, base.tokenizer), pair, recipe, rows=seen, run=run)
    tokens = [sum(tokens_of(row, recipe.objective) for row in seen[i : i + step]) for i in range(0, len(seen), step)]
    pace = median(seconds / n for seconds, n in zip(fitted.seconds, tokens[1:], strict=True))
    stepping = fitted.flops - fitted.beforehand
    saes = own_sae_flops(recipe, pair) * pace * sum(tokens) / stepping
    return Cost(pace * fitted.flops / stepping, before + saes, saes)


def own_sae_flops(recipe: Recipe, pair: Pair) -> float:
    """FLOPs of training the SAEs that were made for a recipe's initialisation."""
    start = load_initialisation(recipe)
    return sae_training_flops(pair.sae_sources(start.sae_set), pair, shape_of(pair)) if "saes" in start.needs else 0.0


# --- ranks --------------------------------------------------------------------------------------------------------


def matched_ranks(pair: Pair, recipes: Sequence[Recipe]) -> dict[str, Rank]:
    """For every adapter the rank at which it trains as nearly as possible as many parameters as plain LoRA does."""
    shape = shape_of(pair)
    plain = Recipe(name="lora", description="", parameters="adapter", learning_rate=Span(low=1, high=1))

    def trains(recipe: Recipe, rank: int) -> int:
        return trained_and_all(to_train(shape, pair, recipe.model_copy(update={"rank_factor": rank / pair.rank})))[0]

    target = trains(plain, pair.rank)
    found = {}
    for recipe in recipes:
        if recipe.parameters != "adapter":
            continue
        own, count = recipe.rank(pair), cache(partial(trains, recipe))
        if count(own) == target:
            found[recipe.name] = Rank(own, target)
        elif count(own) == count(2 * own):
            told = f"it trains {count(own):,} parameters at any rank, and LoRA {target:,}"
            found[recipe.name] = Rank(own, count(own), f"--match-params does not change its rank, since {told}")
        else:
            rank = nearest_rank(count, target)
            found[recipe.name] = Rank(rank, count(rank), _overridden(recipe, own, rank))
    return found


def _overridden(recipe: Recipe, own: int, rank: int) -> str:
    """What a reader of the board should know of a rank that was matched."""
    if recipe.rank_factor != 1:
        return f"--match-params sets its rank to {rank}, while its recipe has {own}"
    if recipe.peft_type == "adalora":
        return "--match-params matches the parameters that it has at the start"
    return ""


def nearest_rank(count: Callable[[int], int], target: int) -> int:
    """The rank whose `count`, which grows with it, is nearest to `target`; of two the lower."""
    high = 1
    while count(high) < target and high < 2**16:
        high *= 2
    above = bisect_left(range(1, high + 1), target, key=count) + 1
    return min((rank for rank in (above - 1, above) if 1 <= rank <= high), key=lambda rank: abs(count(rank) - target))
