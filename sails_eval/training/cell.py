"""Train one cell: a recipe at one learning rate and seed, on batches that are the same for every method.

The batches are laid out before any training: which examples, in which order, up to the first whole batch that
reaches the token budget. So tokens, steps and order are equal by construction; the trainer only walks through them.
"""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch

from sails_eval.core.checksums import note_folder
from sails_eval.core.errors import CellFailed, UserError, unknown
from sails_eval.core.files import writing
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.methods import load_initialisation
from sails_eval.methods.subspace.prepare import changes_base
from sails_eval.models.adapters import (
    adapter_config,
    add_adapter,
    is_own,
    is_target,
    linear_modules,
    target_modules,
    text_modules,
)
from sails_eval.models.base import Base, replaced_weights
from sails_eval.models.layers import NOT_TEXT
from sails_eval.models.saved_weights import finite
from sails_eval.training.batches import CellRun, TokenRow, examples_per_step, saved_at, tokens_of
from sails_eval.training.cost import TrainingCost
from sails_eval.training.regularise import frozen_stays


def train_cell(
    base: Base, pair: Pair, recipe: Recipe, *, rows: Sequence[TokenRow], run: CellRun, folder: Path
) -> TrainingCost:
    """Train a cell and save its adapter (or all weights) into `folder`; the base model is left as it was.

    Of several checkpoints each is in a subfolder, which is called after the number of its step. Raises CellFailed where
    the loss, or a trained weight, is not finite.
    """
    from sails_eval.training.trainers import fit  # TRL takes long to import, and the rest here is of use without it

    dtype, steps = base.model.dtype, len(run.order) // examples_per_step(pair, recipe.objective)
    before = time.perf_counter()
    reset_peak_memory()
    with trainable(base, pair, recipe, run) as model, TemporaryDirectory() as at_step_0:
        start = at_step_0 if recipe.parameters == "adapter" and changes_base(pair, recipe) else None
        if start:
            model.save_pretrained(start)

        def save(step: int) -> None:
            load_initialisation(recipe).finish(model, run.state or {})
            _check_finite(model, f"{recipe.name} {run.learning_rate:g} seed {run.seed}, step {step} of {steps}")
            into = folder / str(step) if run.checkpoints > 1 else folder
            save_trained(model, base, recipe, dtype=dtype, start=start, folder=into)

        def save_between(step: int) -> None:
            if step != steps and step in saved_at(steps, run.checkpoints):
                with _going_on(model, recipe):
                    save(step)

        seen = [rows[i] for i in run.order]
        fitted = fit(Base(model, base.tokenizer), pair, recipe, rows=seen, run=run, after=save_between)
        record = TrainingCost(
            tokens=sum(tokens_of(row, recipe.objective) for row in seen),
            steps=len(fitted.losses),
            examples=len(run.order),
            unique_examples=len(set(run.order)),
            flops=fitted.flops,
            seconds=round(time.perf_counter() - before, 3),
            peak_memory_bytes=peak_memory(),
            trainable_params=sum(p.numel() for p in model.parameters() if p.requires_grad),
            total_params=sum(p.numel() for n, p in model.named_parameters() if not is_own(n, model)),
            losses=fitted.losses,
        )
        save(steps)
    return record


def _check_finite(model: Any, where: str) -> None:
    """Raises CellFailed where training came to weights that are not finite: such a model answers nothing."""
    strange = (name for name, weight in model.named_parameters() if weight.requires_grad and not finite(weight))
    if name := next(strange, None):
        raise CellFailed(f"{where}: weight {name} is not finite any more; lower the learning rate")


@contextmanager
def _going_on(model: Any, recipe: Recipe) -> Iterator[None]:
    """Training goes on after the block as if what is done there to weights had not been.

    An adapter may change in place, whole models only in dtype: no second copy of them is made.
    """
    weights = [(weight, weight.data) for weight in model.parameters()]
    for weight, data in weights:
        if weight.requires_grad and recipe.parameters == "adapter":
            weight.data = data.clone()
    with torch.random.fork_rng(), frozen_stays(model):
        yield
    for weight, data in weights:
        weight.data = data


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
            with _adapter(base, pair, recipe, run) as model:
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
def _adapter(base: Base, pair: Pair, recipe: Recipe, run: CellRun) -> Iterator[Any]:
    """A fresh adapter on the base model, initialised as the recipe says; the bare base model again afterwards."""
    steps = len(run.order) // examples_per_step(pair, recipe.objective)
    with replaced_weights(base.model) if changes_base(pair, recipe) else nullcontext():
        model = add_adapter(base.model, adapter_config(pair, recipe, steps=steps, seed=run.seed))
        try:
            load_initialisation(recipe).initialise(model, run.state or {}, seed=run.seed)
            yield model
        finally:
            model.unload()


def trained_in_full(name: str, pair: Pair, recipe: Recipe) -> bool:
    """Whether a recipe without an adapter trains the weight of this name: all of the text part, or target modules."""
    text = not re.search(NOT_TEXT, name)
    return text and (recipe.parameters == "all" or is_target(name.rpartition(".")[0], pair))


def check_target_modules(model: Any, pair: Pair) -> None:
    """Raises UserError where the model's text part lacks one of the pair's target modules, or it is of a kind without
    adapters."""
    leaves = {name.rsplit(".", 1)[-1] for name in linear_modules(model)}
    of, can = type(model).__name__, f"{', '.join(sorted(leaves))} (key 'target_modules' of pair '{pair.name}')"
    for target in pair.target_modules:
        one = pair.model_copy(update={"target_modules": (target,)})
        if target_modules(model, one):
            continue
        if found := next((module for name, module in text_modules(model) if is_target(name, one)), None):
            raise UserError(
                f"target module '{target}' of {of} is a {type(found).__name__}; only Linear ones, and "
                f"GPT-2's Conv1D, can be trained here: {can}"
            )
        for fused in (weight for name, weight in model.named_parameters() if is_target(name, one)):
            raise UserError(
                f"target module '{target}' of {of} is no module but one weight {[*fused.shape]} of several experts, to "
                f"which no adapter can be given here; those that can have one are {can}"
            )
        raise unknown("target module", target, leaves)
    if not pair.target_modules:
        raise UserError(f"pair '{pair.name}' names no target modules; give --target-modules; {of} has {can}")


def cast_weights(model: Any, dtype: torch.dtype) -> None:
    """Change the dtype of the weights and of nothing else: rotary frequencies, a buffer, would lose precision."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def save_trained(
    model: Any, base: Base, recipe: Recipe, *, dtype: torch.dtype, start: str | None, folder: Path
) -> None:
    """Save what was trained: a plain PEFT adapter, or a whole model that `from_pretrained` loads, in `dtype`.

    An adapter that changed the base weights, whose step 0 lies in `start`, is saved as what it adds to the bare ones,
    at twice its rank.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if recipe.parameters == "adapter":
            only = [model.active_adapter]  # DPO's reference is an adapter, too, as long as it trains
            config = model.peft_config[model.active_adapter]
            if isinstance(config.target_modules, set):  # whose order changes from process to process
                config.target_modules = sorted(config.target_modules)
            model.save_pretrained(str(folder), selected_adapters=only, path_initial_model_for_weight_conversion=start)
        else:
            cast_weights(model, dtype)
            model.save_pretrained(str(folder), safe_serialization=True)
            base.tokenizer.save_pretrained(str(folder))
        note_folder(folder)


def reset_peak_memory() -> None:
    """Restart counting the peak: on the GPU, or Linux's high-water mark of this process, which psutil does not give."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # without it the peak is the process's peak so far, an upper bound
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Peak bytes since the reset: of the GPU, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if (status := Path("/proc/self/status")).exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
