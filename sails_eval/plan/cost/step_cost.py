"""What training, feature collection and answering take, from the model's shape alone.

A training step runs on fake tensors (torch's FakeTensorMode: shapes without data), forward and backward, so FLOPs and
the tensors that autograd keeps are counted as the real code makes them, mixed precision included.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from sails_eval.core.files import read_json
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import Objective
from sails_eval.methods import load_initialisation
from sails_eval.methods.subspace.activations import residual_streams
from sails_eval.methods.subspace.prepare import changes_base
from sails_eval.models.base import dtype_of
from sails_eval.plan.cost.meta_model import Shape, on_meta, to_train, trained_and_all

UNLIKE = {"name", "description", "source", "system_prompt", "dpo", "init", "settings", "learning_rate"}
"""Keys of a recipe that have no bearing on what a step costs, as long as its initialisation freezes nothing."""

TEXTS_AT_A_TIME = 32
"""Contrast texts in a batch of feature collection, as in `activations.text_means`."""


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for; `workspace` is what is there for a moment, such as the gradient of the logits."""

    weights: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    kv_cache: int = 0
    workspace: int = 0
    accumulates: bool = False

    @property
    def peak(self) -> int:
        """The most at any moment: at the end of the forward pass, or while the optimiser steps."""
        held = self.gradients if self.accumulates else 0
        passing = self.activations + self.kv_cache + self.workspace + held
        stepping = 2 * self.gradients  # AdamW's foreach kernels make one more of the gradients' size
        return self.weights + self.optimiser + max(passing, stepping)


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


def step_cost(shape: Shape, pair: Pair, recipe: Recipe, *, length: int | None = None) -> StepCost:
    """What a step of `recipe` takes with sequences of `length` tokens (default: the pair's `max_length`).

    Preference training passes each through its reference, too, forward only; regularisation through the base model.
    """
    length = length or pair.max_length
    batch = pair.micro_batch_size or pair.batch_size
    adapter = recipe.parameters == "adapter"
    model = to_train(shape, pair, recipe)
    trained, total = trained_and_all(model)
    weights = sum(w.nbytes for w in model.parameters())
    gradients = sum(w.nbytes for w in model.parameters() if w.requires_grad)
    forward, backward, kept = _fake_step(model, batch=batch, length=length, half=pair.dtype != "float32")
    backward += forward * pair.gradient_checkpointing  # which goes forward again
    flops = forward * (2 if recipe.objective == "dpo" else 1) + backward
    if pair.regularise:  # the base model reads every sequence once, and the model that is trained once more
        bare = on_meta(shape, pair, dtype=dtype_of(pair))
        flops += _fake_reading(bare, batch=batch, length=length) + forward + backward
    tokens, vocabulary = batch * length, shape.text.vocab_size
    activations = sum(kept)
    if pair.gradient_checkpointing:  # a layer's own tensors for one layer at a time, and the input of every layer
        head = sum(size for size in kept if size >= 2 * tokens * vocabulary)
        layers = shape.text.num_hidden_layers
        inputs = layers * tokens * shape.text.hidden_size * (2 if adapter else 4)
        activations = head + (activations - head) // layers + inputs
    if pair.regularise:  # two passes wait for the backward one, and base weights that change have a frozen copy
        activations *= 2
        weights += total * dtype_of(pair).itemsize if changes_base(pair, recipe) else 0
    memory = Memory(
        weights=weights,
        gradients=gradients,
        optimiser=2 * gradients,  # AdamW keeps two numbers of every trained parameter, of its dtype
        activations=activations,
        workspace=6 * tokens * vocabulary,  # the logits' gradient in single precision, and a copy in half
        accumulates=batch < pair.batch_size,
    )
    added = sum(weight.numel() for weight in model.parameters()) - total
    return StepCost(trained, total, added, flops / tokens, memory)


def step_costs(
    shape: Shape, pair: Pair, recipes: Iterable[Recipe], *, lengths: Mapping[Objective, int] | None = None
) -> dict[str, StepCost]:
    """The step of every recipe by its name, made once for those that train alike; `lengths` by objective."""
    made: dict[Any, StepCost] = {}
    costs = {}
    for recipe in recipes:
        frozen = str(recipe.settings) if load_initialisation(recipe).freezes else ""
        alike = (recipe.model_dump_json(exclude=UNLIKE), frozen, changes_base(pair, recipe))
        if alike not in made:
            length = None if lengths is None else lengths[recipe.objective]
            made[alike] = step_cost(shape, pair, recipe, length=length)
        costs[recipe.name] = made[alike]
    return costs


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


def answering_memory(shape: Shape, pair: Pair, *, parameters: int, tokens: int) -> Memory:
    """Memory of answering a batch with prompts and answers of `tokens` tokens each, by transformers.

    The model is in the pair's dtype; the logits are those of one token of every answer, in single precision.
    """
    width = 4 if pair.dtype == "float32" else 2
    return Memory(
        weights=width * parameters,
        kv_cache=pair.eval_batch_size * tokens * shape.kv_bytes_per_token * width // 2,
        workspace=6 * pair.eval_batch_size * shape.text.vocab_size,
    )


def features_memory(shape: Shape, pair: Pair, *, parameters: int) -> Memory:
    """Memory of collecting SAE features over contrast texts of the pair's `max_length` tokens."""
    width = 4 if pair.dtype == "float32" else 2
    text, tokens = shape.text, TEXTS_AT_A_TIME * pair.max_length
    wide = [sae_width(source, text.hidden_size) for source in pair.saes]
    scores = 0
    if pair.attn_implementation == "eager":  # scores, soft-capped, in single precision for the softmax
        scores = (2 * width + 4) * tokens * pair.max_length * text.num_attention_heads
    mlp = 3 * width * tokens * text.intermediate_size
    encoding = tokens * (2 * 4 * max(wide, default=0) + 4 * text.hidden_size)  # before and after the activation
    return Memory(
        weights=width * parameters + sum(2 * 4 * text.hidden_size * n for n in wide),
        activations=len(pair.saes) * tokens * text.hidden_size * width,
        workspace=max(scores, mlp, encoding),
    )


def sae_width(source: SaeSource, hidden_size: int) -> int:
    """Features of a SAE: as its folder says, or as its release and id are called; 8 times the model's width else."""
    if source.path is not None:
        return int(read_json(source.path / "cfg.json")["d_sae"])
    if thousands := re.search(r"(?:^|[-_/])w(?:idth_)?(\d+)k(?:[-_/]|$)", f"{source.release}/{source.id}"):
        return 1024 * int(thousands.group(1))
    times = re.search(r"_(\d+)x$", source.release or "")
    return hidden_size * (int(times.group(1)) if times else 8)
