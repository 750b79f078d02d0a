"""Walk through laid-out rows with a trainer of TRL: SFTTrainer, or DPOTrainer for recipes that learn from pairs.

Both read the same tokens in the same order. A step of DPO reads as many sequences as one of SFT: half as many pairs.
"""

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch.utils.flop_counter import FlopCounterMode
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from transformers.training_args import OptimizerNames
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from sails_eval.core.errors import CellFailed
from sails_eval.core.pair import Pair
from sails_eval.core.progress import Step, tell
from sails_eval.core.recipe import Recipe
from sails_eval.models.base import Base
from sails_eval.training.batches import (
    CellRun,
    TokenRow,
    by_length,
    examples_per_step,
    micro_batch,
    padded_tokens,
    tokens_of,
)
from sails_eval.training.regularise import KlPenalty, Regularised


@dataclass(frozen=True)
class Fitted:
    """What fitting came to: the loss of every step, FLOPs, and the seconds of each step after the first.

    `beforehand` are those of the FLOPs that a reference took before the first step, which is not in the seconds.
    """

    losses: list[float]
    flops: int
    beforehand: int
    seconds: list[float]


def fit(
    trained: Base,
    pair: Pair,
    recipe: Recipe,
    *,
    rows: list[TokenRow],
    run: CellRun,
    after: Callable[[int], None] | None = None,
) -> Fitted:
    """Walk the model through the rows in order; `after` is called with the number of every step that is done.

    Raises CellFailed at the first step whose loss is not finite.
    """
    model, rows = trained.model, by_length(rows, pair, recipe.objective)
    batch, micro = examples_per_step(pair, recipe.objective), micro_batch(pair, recipe.objective)
    make = {"sft": _sft_trainer, "dpo": _dpo_trainer}[recipe.objective]
    with tempfile.TemporaryDirectory() as scratch, _own_forwards(model):
        options = _options(pair, run, micro=micro, batch=batch, steps=len(rows) // batch)
        # DPO of whole models asks its reference here, and draws a bar for every cell
        with FlopCounterMode(display=False) as beforehand, redirect_stderr(StringIO()):
            penalty = pair.regularise and KlPenalty.of(model, pair, recipe)
            trainer = make(trained, rows, recipe, {"output_dir": scratch, **options})
        trainer.penalty = penalty
        if recipe.lr_ratio:
            trainer.optimizer = lora_plus(trainer, recipe.lr_ratio)
        if recipe.peft_type == "adalora":
            trainer.add_callback(_AllocateRanks(model))
        trainer.remove_callback(PrinterCallback)
        name = f"{recipe.name} {run.learning_rate:g} seed {run.seed}"
        trainer.add_callback(steps := _Steps(name, after))
        trainer.add_callback(_Tell(name, tokens=sum(tokens_of(row, recipe.objective) for row in rows)))
        with steps.counting:
            trainer.train()
    if "ref" in getattr(model, "peft_config", {}):  # the frozen copy of the adapter that DPOTrainer measures against
        model.delete_adapter("ref")
    if trainer.state.epoch > 1 + 1e-6 or trainer.state.global_step != len(rows) // batch:
        raise RuntimeError(f"the trainer took {trainer.state.global_step} steps, {trainer.state.epoch} times the data")
    losses = [round(entry["loss"], 6) for entry in trainer.state.log_history if "loss" in entry]
    padded = padded_tokens(rows, pair, recipe.objective)
    first_step = sum(padded[: batch // micro])
    asked, stepping = int(beforehand.get_total_flops()), round(steps.flops.get_total_flops() * sum(padded) / first_step)
    return Fitted(losses, asked + stepping, asked, [b - a for a, b in pairwise(steps.ended)])


@contextmanager
def _own_forwards(model: Any) -> Iterator[None]:
    """Undo what the trainer does to the modules' `forward`, which a next cell would inherit."""
    forwards = {module: module.__dict__.get("forward") for module in model.modules()}
    try:
        yield
    finally:
        for module, forward in forwards.items():
            vars(module).pop("forward", None)
            if forward is not None:
                module.forward = forward


def _options(pair: Pair, run: CellRun, *, micro: int, batch: int, steps: int) -> dict[str, Any]:
    """What both trainers are told."""
    cuda, optimiser = torch.cuda.is_available(), pair.optimiser.model_dump()
    if cuda and optimiser["optim"] == OptimizerNames.ADAMW_TORCH.value:  # the same, without a copy of all gradients
        optimiser["optim"] = OptimizerNames.ADAMW_TORCH_FUSED.value
    return {
        "learning_rate": run.learning_rate,
        "seed": run.seed,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "max_steps": steps,
        "train_sampling_strategy": "sequential",
        "max_length": None,
        "bf16": pair.dtype == "bfloat16" and cuda,
        "gradient_checkpointing": bool(pair.gradient_checkpointing),
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would write down another loss in place of one that is not finite
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        **optimiser,  # the same for every method; only the learning rate differs
    }


def _sft_trainer(trained: Base, rows: list[TokenRow], recipe: Recipe, options: dict[str, Any]) -> Any:
    data = Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]})
    args = SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, **options)
    return _SFTTrainer(model=trained.model, args=args, train_dataset=data, processing_class=trained.tokenizer)


class _SFTTrainer(Regularised, SFTTrainer):  # type: ignore[misc]
    """Adds what the pair regularises with."""


def _dpo_trainer(trained: Base, rows: list[TokenRow], recipe: Recipe, options: dict[str, Any]) -> Any:
    """The reference is the model at step 0: a copy of the adapter, or, of a whole model, what it says beforehand."""
    data = Dataset.from_dict(
        {
            "prompt_ids": [row.input_ids[: row.prompt_length] for row in rows],
            "chosen_ids": [row.input_ids[row.prompt_length :] for row in rows],
            "rejected_ids": [row.rejected_ids for row in rows],
        }
    )
    weights = {recipe.dpo.loss_type: 1.0, "sft": recipe.dpo.sft_weight}
    args = DPOConfig(
        beta=recipe.dpo.beta,
        loss_type=[name for name, weight in weights.items() if weight],
        loss_weights=[weight for weight in weights.values() if weight],
        label_smoothing=recipe.dpo.label_smoothing,
        precompute_ref_log_probs=recipe.parameters != "adapter",
        disable_dropout=False,  # it would turn it off for the base model's later cells, too
        **options,
    )
    return _TokenisedDPOTrainer(model=trained.model, args=args, train_dataset=data, processing_class=trained.tokenizer)


class _TokenisedDPOTrainer(Regularised, DPOTrainer):  # type: ignore[misc]
    """Takes rows that are tokenised as all methods' are, instead of tokenising texts in its own way."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset


def lora_plus(trainer: Any, ratio: float) -> torch.optim.Optimizer:
    """The trainer's own optimiser, with a higher learning rate for lora_B than for lora_A."""
    kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    made: torch.optim.Optimizer = create_loraplus_optimizer(
        trainer.model, kind, loraplus_lr_ratio=ratio, loraplus_weight_decay=trainer.args.weight_decay, **options
    )
    return made


class _AllocateRanks(TrainerCallback):  # type: ignore[misc]
    """AdaLoRA's cuts of the ranks, which stand between a step and the zeroing of its gradients."""

    def __init__(self, model: PeftModel) -> None:
        self._model: Any = model.base_model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._model.update_and_allocate(state.global_step)


class _Tell(TrainerCallback):  # type: ignore[misc]
    """Says how far training is, twice a second at most, and at its end."""

    def __init__(self, cell: str, *, tokens: int) -> None:
        """`tokens` are those of all steps."""
        self._cell, self._tokens = cell, tokens
        self._began = self._told = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        now = time.perf_counter()
        if "loss" in logs and (now - self._told >= 0.5 or state.global_step == state.max_steps):
            self._told = now
            pace = self._tokens * state.global_step / state.max_steps / (now - self._began)
            tell(Step(self._cell, state.global_step, state.max_steps, float(logs["loss"]), pace))


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Counts the FLOPs of the first optimiser step (of all would double the training time), and notes when each ended.

    `after` is then called with its number. Raises CellFailed, with the cell's name, for a loss that is not finite.
    """

    def __init__(self, cell: str, after: Callable[[int], None] | None) -> None:
        self._cell, self._after = cell, after
        self.flops: Any = FlopCounterMode(display=False)
        self.counting = ExitStack()  # around training, so that nothing is counted after a first step that fails
        self.ended: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self.counting.enter_context(self.flops)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended.append(time.perf_counter())
        self.counting.close()
        if self._after:
            self._after(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise CellFailed(
                f"{self._cell}: the loss is {logs['loss']} at step {state.global_step} of {state.max_steps}; lower the "
                "learning rate"
            )
