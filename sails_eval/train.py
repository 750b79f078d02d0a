"""Train one cell: a recipe at one learning rate and seed, on batches that are the same for every method.

The batches are laid out before any training: which examples, in which order, up to the first whole batch that
reaches the token budget. So tokens, steps and order are equal by construction; the trainer only walks through them.
"""

from __future__ import annotations

import random
import re
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from sails_eval.config import Objective, Pair, Recipe
from sails_eval.data import Example
from sails_eval.errors import UserError, unknown
from sails_eval.methods import load_initialisation
from sails_eval.models import Base, render_chat, replaced_weights
from sails_eval.peft_configs import NOT_TEXT, START, adapter_config, add_adapter, is_own, mutates_base
from sails_eval.trainers import examples_per_step, fit, tokens_of


@dataclass(frozen=True)
class TokenRow:
    """One tokenised training example; labels are -100 wherever the loss does not look, which is on the request.

    `rejected_ids` is the rejected answer without its request; empty where there is none. `source` names the request
    with its answer, `rejected_source` with its rejected one, for counting different ones.
    """

    input_ids: list[int]
    labels: list[int]
    group: str = ""
    rejected_ids: list[int] = field(default_factory=list)
    source: str = field(default="", compare=False)
    rejected_source: str = field(default="", compare=False)

    @property
    def prompt_length(self) -> int:
        return self.labels.count(-100)


@dataclass(frozen=True)
class TrainRecord:
    """What a cell cost: train.json.

    `tokens` are those of all sequences that were read; with the objective dpo these are both answers to every request,
    each behind it. FLOPs are counted by torch over the first optimiser step, forward, backward and what its reference
    takes, and scaled by padded tokens.
    """

    tokens: int
    steps: int
    examples: int
    unique_examples: int
    flops: int
    seconds: float
    peak_memory_bytes: int
    trainable_params: int
    total_params: int
    losses: list[float]


def encode_examples(tokenizer: Any, examples: Sequence[Example], max_length: int) -> list[TokenRow]:
    """Tokenise examples in the chat format, with loss on the answer (and its end-of-turn) only.

    Examples are cut at `max_length` tokens; those whose request alone reaches it are left out.
    """
    rows = []
    for example in examples:
        request = [{"role": m.role, "content": m.content} for m in example.messages]
        prompt = render_chat(tokenizer, request)
        start = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        room = max_length - len(start)
        if room > 0:
            end = _encode_answer(tokenizer, request, prompt, example.response)[:room]
            rejected = example.rejected
            other = [] if rejected is None else _encode_answer(tokenizer, request, prompt, rejected)[:room]
            names = {"source": example.label, "rejected_source": example.rejected_label}
            rows.append(TokenRow(start + end, [-100] * len(start) + end, example.group, other, **names))
    return rows


def _encode_answer(tokenizer: Any, request: list[dict[str, str]], prompt: str, answer: str) -> list[int]:
    """Token ids of an answer and its end-of-turn, behind a request that was rendered as `prompt`."""
    whole = render_chat(tokenizer, [*request, {"role": "assistant", "content": answer}], answered=True)
    if not whole.startswith(prompt):
        raise UserError("the chat template writes a request differently once it is answered; cannot train on it")
    return list(tokenizer(whole[len(prompt) :], add_special_tokens=False)["input_ids"])


def lay_out(rows: Sequence[TokenRow], pair: Pair, *, seed: int, objective: Objective = "sft") -> list[int]:
    """The order in which a seed's cells see the examples: indices into `rows`, in batches of `examples_per_step`.

    A seed draws `pair.examples` of them (all where None), of every group its share, and passes over its sample, newly
    shuffled each time, until the first whole batch at which `pair.tokens` non-padding tokens are reached. All
    objectives walk the same way; one that learns from pairs passes over what has no rejected answer. Raises UserError
    where none of the sample has one.
    """
    rng = random.Random(f"training sample of seed {seed}")
    sample = _stratified(rows, rng)[: pair.examples]
    if not any(tokens_of(rows[index], objective) for index in sample):
        raise UserError(
            f"objective {objective} learns from pairs of a chosen and a rejected answer, and the training data has "
            f"none for seed {seed}; give --train FILE with the fields chosen and rejected"
        )
    batch = examples_per_step(pair, objective)
    order: list[int] = []
    seen = 0
    for index in _passes(sample, rng):
        if seen >= pair.tokens and len(order) % batch == 0:
            break
        if tokens := tokens_of(rows[index], objective):
            order.append(index)
            seen += tokens
    return order


def _passes(sample: list[int], rng: random.Random) -> Iterator[int]:
    """The sample over and over, newly shuffled each time."""
    while True:
        rng.shuffle(sample)
        yield from sample


def _stratified(rows: Sequence[TokenRow], rng: random.Random) -> list[int]:
    """All indices in a random order of which every beginning has the groups in the proportions of the whole."""
    groups: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(row.group, []).append(index)
    shuffled = [rng.sample(groups[name], len(groups[name])) for name in sorted(groups)]
    return [index for _, index in sorted((i / len(part), index) for part in shuffled for i, index in enumerate(part))]


@dataclass(frozen=True)
class CellRun:
    """What varies between the cells of a recipe.

    `state` is what its initialisation starts from, if it has one, `checkpoints` how often it is saved.
    """

    learning_rate: float
    seed: int
    order: list[int]
    state: Mapping[str, torch.Tensor] | None = None
    checkpoints: int = 1


def saved_at(steps: int, checkpoints: int) -> list[int]:
    """After which of its steps a cell is saved: equally far apart, up to whole steps, the last one at its end."""
    return [-(-k * steps // checkpoints) for k in range(1, checkpoints + 1)]


def train_cell(
    base: Base, pair: Pair, recipe: Recipe, *, rows: Sequence[TokenRow], run: CellRun, folder: Path
) -> TrainRecord:
    """Train a cell and save its adapter (or all weights) into `folder`; the base model is left as it was.

    Of several checkpoints each is in a subfolder, which is called after the number of its step.
    """
    dtype, steps = base.model.dtype, len(run.order) // examples_per_step(pair, recipe.objective)
    before = time.perf_counter()
    _reset_peak_memory()
    with trainable(base, pair, recipe, run) as model:

        def save(step: int) -> None:
            _finish(model, recipe, run)
            save_trained(model, base, recipe, dtype=dtype, folder=folder / str(step) if run.checkpoints > 1 else folder)

        def save_between(step: int) -> None:
            if step != steps and step in saved_at(steps, run.checkpoints):
                with _going_on(model, recipe):
                    save(step)

        seen = [rows[i] for i in run.order]
        after = save_between if run.checkpoints > 1 else None
        fitted = fit(model, base.tokenizer, pair, recipe, rows=seen, run=run, after=after)
        record = TrainRecord(
            tokens=sum(tokens_of(row, recipe.objective) for row in seen),
            steps=len(fitted.losses),
            examples=len(run.order),
            unique_examples=len(set(run.order)),
            flops=fitted.flops,
            seconds=round(time.perf_counter() - before, 3),
            peak_memory_bytes=_peak_memory(),
            trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
            total_params=sum(p.numel() for n, p in model.named_parameters() if not is_own(n, model)),
            losses=fitted.losses,
        )
        save(steps)
    return record


@contextmanager
def _going_on(model: Any, recipe: Recipe) -> Iterator[None]:
    """Training goes on after the block as if what is done there to weights had not been.

    An adapter may change in place, whole models only in dtype: no second copy of them is made.
    """
    weights = [(weight, weight.data, weight.requires_grad) for weight in model.parameters()]
    for weight, data, trained in weights:
        if trained and recipe.parameters == "adapter":
            weight.data = data.clone()
    with torch.random.fork_rng():
        yield
    for weight, data, trained in weights:
        weight.data = data
        weight.requires_grad_(trained)


@contextmanager
def trainable(base: Base, pair: Pair, recipe: Recipe, run: CellRun) -> Iterator[Any]:
    """The model a recipe trains, at step 0: a fresh adapter on the frozen base, or the base with its weights free.

    They are free in all of its modules or in the target modules only.
    """
    torch.manual_seed(run.seed)
    hooks = base.model.get_input_embeddings()._forward_hooks
    # The trainer aligns special tokens and turns the cache off; what answers next must not depend on who trained here.
    before = dict(hooks), dict(base.model.config.__dict__), deepcopy(base.model.generation_config)
    try:
        if recipe.parameters == "adapter":
            steps = len(run.order) // examples_per_step(pair, recipe.objective)
            with _adapter(base, adapter_config(pair, recipe, steps=steps, seed=run.seed), recipe, run) as model:
                yield model
        else:
            with replaced_weights(base.model):
                cast_weights(base.model, torch.float32)  # fp32 master weights
                for name, weight in base.model.named_parameters():
                    weight.requires_grad_(trained_in_full(name, pair, recipe))
                yield base.model
    finally:
        if base.model.is_gradient_checkpointing:
            base.model.gradient_checkpointing_disable()
        hooks.clear()  # PEFT and the trainer each hook the embeddings, and neither's hook can be reached afterwards
        hooks.update(before[0])
        base.model.config.__dict__.update(before[1])
        base.model.generation_config = before[2]
        base.model.requires_grad_(False).eval()


@contextmanager
def _adapter(base: Base, config: Any, recipe: Recipe, run: CellRun) -> Iterator[Any]:
    """A fresh adapter on the base model, initialised as the recipe says; the bare base model again afterwards."""
    module: Any = load_initialisation(recipe.init) if recipe.init else None
    mutates = mutates_base(config) or getattr(module, "MUTATES_BASE", False)
    with replaced_weights(base.model) if mutates else nullcontext(), TemporaryDirectory() as start:
        model = add_adapter(base.model, config)
        try:
            if module:
                module.initialise(model, run.state or {}, settings=module.Settings(**recipe.settings), seed=run.seed)
            if mutates:
                model.save_pretrained(start)
                setattr(model, START, start)
            yield model
        finally:
            model.unload()


def _finish(model: Any, recipe: Recipe, run: CellRun) -> None:
    """What the recipe's initialisation wants to be done once training is over, if anything."""
    module: Any = load_initialisation(recipe.init) if recipe.init else None
    if finish := getattr(module, "finish", None):
        finish(model, run.state or {}, settings=module.Settings(**recipe.settings))


def trained_in_full(name: str, pair: Pair, recipe: Recipe) -> bool:
    """Whether a recipe without an adapter trains the weight of this name: all of the text part, or target modules."""
    text = not re.search(NOT_TEXT, name)
    return text and (recipe.parameters == "all" or name.split(".")[-2] in pair.target_modules)


def check_target_modules(model: Any, pair: Pair) -> None:
    """Raises UserError where the model lacks one of the pair's target modules."""
    leaves = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for name in pair.target_modules:
        if name not in leaves:
            raise unknown("target module", name, leaves)


def cast_weights(model: Any, dtype: torch.dtype) -> None:
    """Change the dtype of the weights and of nothing else: rotary frequencies, a buffer, would lose precision."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def save_trained(model: Any, base: Base, recipe: Recipe, *, dtype: torch.dtype, folder: Path) -> None:
    """Save what was trained: a plain PEFT adapter, or a whole model that `from_pretrained` loads, in `dtype`.

    An adapter that started by changing the base weights is saved as what it adds to the bare ones, at twice its rank.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if recipe.parameters == "adapter":
        start = getattr(model, START, None)
        only = [model.active_adapter]  # DPO's reference is an adapter, too, as long as it trains
        model.save_pretrained(str(folder), selected_adapters=only, path_initial_model_for_weight_conversion=start)
    else:
        cast_weights(model, dtype)
        model.save_pretrained(str(folder), safe_serialization=True)
        base.tokenizer.save_pretrained(str(folder))


def _reset_peak_memory() -> None:
    """Start counting the peak anew: on the GPU, or this process's high-water mark where the kernel lets us."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # without it the peak is the process's peak so far, an upper bound
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int:
    """Peak bytes since the reset: of the GPU, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
