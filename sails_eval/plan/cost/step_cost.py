"""What training, feature collection and answering take, from the model's shape alone.

A training step runs on fake tensors (torch's FakeTensorMode: shapes without data), forward and backward, so FLOPs and
the tensors that autograd keeps are counted as the real code makes them, mixed precision included.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from sails_eval.core.errors import as_user_error
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import Objective
from sails_eval.methods import load_initialisation
from sails_eval.methods.subspace.activations import residual_streams
from sails_eval.methods.subspace.layers import CONFIG, read_stated
from sails_eval.methods.subspace.prepare import changes_base
from sails_eval.models.answer_batches import LOGITS, width_of
from sails_eval.models.base import dtype_of
from sails_eval.models.layers import LINEAR
from sails_eval.plan.cost.meta_model import Shape, on_meta, to_train, trained_and_all
from sails_eval.training.batches import SEQUENCES

UNLIKE = {"name", "description", "source", "system_prompt", "dpo", "init", "settings", "learning_rate"}
"""Keys of a recipe that have no bearing on what a step costs, as long as its initialisation freezes nothing."""

TILE = (4096, 32768)
"""Tokens and entries of the vocabulary whose logits TRL's trainers hold at a time (trl/kernels/chunked_logprob.py)."""

FEW_TOKENS = 32
"""What is read of a model without attention, whose code walks token by token: the rest costs as much for each."""

TEXTS_AT_A_TIME = 32
"""Contrast texts in a batch of feature collection, as in `activations.text_means`."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for; `workspace` is what is there for a moment, such as a tile of the logits."""

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    kv_cache: int = 0
    workspace: int = 0
    accumulates: bool = False

    @property
    def peak(self) -> int:
        """The most at any moment: while a batch is read, or while the optimiser steps."""
        held = self.gradients if self.accumulates else 0
        passing = self.activations + self.kv_cache + self.workspace + held
        ending = self.gradients + self.workspace  # of the backward pass; a fused step makes no copies of gradients
        return self.weights + self.optimiser + max(passing, ending)


@dataclass(frozen=True)
class StepCost:
    """One optimiser step of a recipe: parameters, FLOPs per padded token, and memory at the longest examples.

    `trained` of them are trained, the model has `total`, and an adapter adds `added`, some of which may be frozen.
    """

    trained: int
    total: int
    added: int
    flops_per_token: float
    memory: Memory

    @property
    def share(self) -> float:
        """Trained parameters as a share of all, an adapter's own included, as PEFT counts it."""
        return self.trained / (self.total + self.added)


@dataclass(frozen=True)
class Reading:
    """One sequence of `length` tokens read forward and backward by what a recipe trains.

    Steps of any size are reckoned from it. Counts of parameters are as in `StepCost`; `weights` and `gradients` are
    bytes; FLOPs are those of `forward`, `backward` and, where there is a regulariser, the base model (`regularising`).
    Autograd keeps `kept` bytes of a sequence's layers, `logits` of its logits where the loss takes them whole, and
    `halves` of trained weights in half precision. `head` bytes are gradients on the way into the output embedding.
    """

    length: int
    trained: int
    total: int
    added: int
    weights: int
    gradients: int
    forward: int
    backward: int
    regularising: int
    kept: int
    logits: int
    halves: int
    head: int


def read_once(shape: Shape, pair: Pair, recipe: Recipe, *, length: int) -> Reading:
    """The way of fake tensors through the model and back."""
    model, half = to_train(shape, pair, recipe), pair.dtype != "float32"
    trained, total = trained_and_all(model)
    every, free = list(model.parameters()), [weight for weight in model.parameters() if weight.requires_grad]
    weights, added = sum(weight.nbytes for weight in every), sum(weight.numel() for weight in every) - total
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    cast = {id(module.weight): module.weight for module in model.modules() if isinstance(module, LINEAR)}
    halves = [2 * w.numel() for w in cast.values() if w.requires_grad and half and recipe.parameters != "adapter"]
    of_head = 2 * head.numel() * (head.requires_grad and half)  # cast a tile at a time
    to_head = 4 * head.numel() * (1 + tied) * head.requires_grad  # in single precision, from either side
    gradients = sum(weight.nbytes for weight in free)
    asked, length = length, length if shape.attends else min(length, FEW_TOKENS)
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # what fails is told below
    # not all operations know shapes without data
    with as_user_error(
        f"model '{pair.model}': the cost of a training step cannot be estimated", "the rest of the plan holds"
    ):
        forward, backward, kept = _fake_step(model, batch=1, length=length, half=half)
    of_logits = {width * length * shape.text.vocab_size for width in (2, 4)}
    logits, regularising = sum(size for size in kept if size in of_logits), 0
    if pair.regularise:
        regularising = _fake_reading(on_meta(shape, pair, dtype=dtype_of(pair)), batch=1, length=length)
        weights += total * dtype_of(pair).itemsize if changes_base(pair, recipe) else 0  # a frozen copy
    times = asked / length
    return Reading(
        length=asked,
        trained=trained,
        total=total,
        added=added,
        weights=weights,
        gradients=gradients,
        forward=round(times * forward),
        backward=round(times * backward),
        regularising=round(times * regularising),
        kept=max(0, round(times * (sum(kept) - logits - sum(halves)))),
        logits=round(times * logits),
        halves=sum(halves) - of_head,
        head=to_head,
    )


def readings(
    shape: Shape, pair: Pair, recipes: Iterable[Recipe], *, lengths: Mapping[Objective, int] | None = None
) -> dict[str, Reading]:
    """The reading of every recipe by its name, made once for those that train alike; `lengths` by objective, by default
    the pair's `max_length`."""
    made: dict[Any, Reading] = {}
    found = {}
    for recipe in recipes:
        frozen = str(recipe.settings) if load_initialisation(recipe).freezes else ""
        alike = (recipe.model_dump_json(exclude=UNLIKE), frozen, changes_base(pair, recipe))
        if alike not in made:
            length = pair.max_length if lengths is None else lengths[recipe.objective]
            made[alike] = read_once(shape, pair, recipe, length=length)
        found[recipe.name] = made[alike]
    return found


def step_costs(
    shape: Shape, pair: Pair, recipes: Sequence[Recipe], *, lengths: Mapping[Objective, int] | None = None
) -> dict[str, StepCost]:
    """The step of every recipe by its name."""
    found = readings(shape, pair, recipes, lengths=lengths)
    return {recipe.name: cost_of(found[recipe.name], shape, pair, recipe) for recipe in recipes}


def step_cost(shape: Shape, pair: Pair, recipe: Recipe, *, length: int | None = None) -> StepCost:
    """What a step of `recipe` takes with sequences of `length` tokens (default: the pair's `max_length`)."""
    return cost_of(read_once(shape, pair, recipe, length=length or pair.max_length), shape, pair, recipe)


def cost_of(one: Reading, shape: Shape, pair: Pair, recipe: Recipe) -> StepCost:
    """A step in the pair's micro-batches, from the reading of one sequence.

    Preference training passes each through its reference, too, forward only; regularisation through the base model.
    """
    backward = one.backward + one.forward * bool(pair.gradient_checkpointing)  # which goes forward again
    flops = one.forward * (2 if recipe.objective == "dpo" else 1) + backward
    if pair.regularise:  # the base model reads every sequence once, and the model that is trained once more
        flops += one.regularising + one.forward + backward
    sequences = max(pair.micro_batch_size or pair.batch_size, SEQUENCES[recipe.objective])
    memory = Memory(
        weights=one.weights,
        gradients=one.gradients,
        optimiser=2 * one.gradients,  # AdamW keeps two numbers of every trained parameter, of its dtype
        activations=_activations(one, shape, pair, recipe, sequences),
        workspace=_workspace(one, shape, pair, sequences),
        accumulates=sequences < pair.batch_size,
    )
    return StepCost(one.trained, one.total, one.added, flops / one.length, memory)


def _activations(one: Reading, shape: Shape, pair: Pair, recipe: Recipe, sequences: int) -> int:
    """Bytes that wait for the backward pass of a micro-batch."""
    kept, halves = sequences * one.kept, one.halves
    if pair.gradient_checkpointing:  # a layer's own tensors for one layer at a time, and the input of every layer
        layers, width = shape.text.num_hidden_layers, dtype_of(pair).itemsize if recipe.parameters == "adapter" else 4
        kept = kept // layers + layers * sequences * one.length * shape.text.hidden_size * width
        # those of all layers are there until the backward pass, which wants the workspace, begins
        halves = halves // layers + max(0, halves - _workspace(one, shape, pair, sequences))
    if pair.regularise:  # two passes wait for the backward one, and what is added takes the logits whole
        kept = 2 * (kept + sequences * one.logits)
    return kept + halves


def _workspace(one: Reading, shape: Shape, pair: Pair, sequences: int) -> int:
    """Bytes of the loss while it is made: TRL's head reckons a tile of the logits at a time, a regulariser all."""
    tokens, width = sequences * one.length, dtype_of(pair).itemsize
    vocabulary, hidden = int(shape.text.vocab_size), int(shape.text.hidden_size)
    if pair.regularise:
        return one.head + 6 * tokens * vocabulary  # their gradient in single precision, and a copy in half
    tile = min(tokens, TILE[0]) * min(vocabulary, TILE[1]) * width
    return one.head + tile + tokens * hidden * (4 + width)


def forward_flops(shape: Shape, pair: Pair, *, layers: Sequence[int], length: int) -> float:
    """FLOPs per token of a forward pass that ends behind the last of `layers`, over texts of `length` tokens."""
    model = on_meta(shape, pair, dtype=dtype_of(pair))
    flops = _fake_reading(model, batch=TEXTS_AT_A_TIME, length=length, layers=layers)
    return flops / (TEXTS_AT_A_TIME * length)


def _fake_step(model: Any, *, batch: int, length: int, half: bool) -> tuple[int, int, list[int]]:
    """FLOPs of a forward and of a backward pass, and the sizes in bytes of what autograd keeps between them."""
    kept: dict[int, torch.UntypedStorage] = {}
    model.train()
    with FakeTensorMode(allow_non_fake_inputs=True):
        own = _materialise(model)

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage  # held, so that no other gets its address
            return tensor

        ids = torch.zeros(batch, length, dtype=torch.long)
        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
            forward = int(counter.get_total_flops())
            loss.backward()
    return forward, int(counter.get_total_flops()) - forward, [storage.nbytes() for storage in kept.values()]


def _fake_reading(model: Any, *, batch: int, length: int, layers: Sequence[int] | None = None) -> int:
    """FLOPs of a forward pass of which nothing is kept; it ends behind the last of `layers`, if they are given."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        _materialise(model)
        ids = torch.zeros(batch, length, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            if layers is None:
                model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            else:
                residual_streams(model, layers, ids, torch.ones_like(ids))
    return int(counter.get_total_flops())


def _materialise(model: Any) -> set[int]:
    """Put fake tensors on the CPU in place of a model's meta ones; the addresses of their storages."""
    made: dict[int, torch.nn.Parameter] = {}
    old = list(model.parameters())  # held, so that ids stay theirs
    for weight in old:
        fake = torch.empty(weight.shape, dtype=weight.dtype)
        made[id(weight)] = torch.nn.Parameter(fake, requires_grad=weight.requires_grad)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    return {weight.untyped_storage()._cdata for weight in made.values()}


def answering_memory(shape: Shape, pair: Pair, *, parameters: int, tokens: int, answers: int) -> Memory:
    """Memory of a batch of `answers` answers, of `tokens` tokens each with their prompts, by transformers.

    The model is in the pair's dtype; the logits are those of one token of every answer, in single precision.
    """
    width = width_of(pair)
    return Memory(
        weights=width * parameters,
        kv_cache=answers * tokens * shape.kv_bytes_per_token * width // 2,
        workspace=LOGITS * answers * shape.text.vocab_size,
    )


def features_memory(shape: Shape, pair: Pair, *, parameters: int) -> Memory:
    """Memory of collecting SAE features over contrast texts of the pair's `max_length` tokens."""
    width = width_of(pair)
    text, tokens = shape.text, TEXTS_AT_A_TIME * pair.max_length
    wide = [sae_width(source, text.hidden_size) for source in pair.saes]
    scores = 0
    if pair.attn_implementation == "eager":  # scores, soft-capped, in single precision for the softmax
        scores = (2 * width + 4) * tokens * pair.max_length * text.num_attention_heads
    mlp = 3 * width * tokens * (getattr(text, "intermediate_size", None) or 4 * text.hidden_size)  # of some unsaid
    encoding = tokens * (2 * 4 * max(wide, default=0) + 4 * text.hidden_size)  # before and after the activation
    return Memory(
        weights=width * parameters + sum(2 * 4 * text.hidden_size * n for n in wide),
        activations=len(pair.saes) * tokens * text.hidden_size * width,
        workspace=max(scores, mlp, encoding),
    )


def sae_width(source: SaeSource, hidden_size: int) -> int:
    """Features of an SAE: as its folder says, or as its release and id are called; 8 times the model's width else."""
    if source.path is not None and (source.path / CONFIG).is_file():  # else it is told that there is none
        return read_stated(source.path).d_sae
    if thousands := re.search(r"(?:^|[-_/])w(?:idth_)?(\d{1,5})k(?:[-_/]|$)", f"{source.release}/{source.id}"):
        return 1024 * int(thousands.group(1))
    times = re.search(r"_(\d{1,5})x$", source.release or "")
    return hidden_size * (int(times.group(1)) if times else 8)
