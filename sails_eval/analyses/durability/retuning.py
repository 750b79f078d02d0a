"""Fine-tuned models merged, fine-tuned further and quantised, in place of the base model while they answer."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from sails_eval.analyses.durability.attacks import GROUP, RETUNING, Attack, Attacked, order_of
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe, Span
from sails_eval.data.reading import read_examples
from sails_eval.models.base import Base, applied, replaced_weights
from sails_eval.models.layers import decoder_layers
from sails_eval.models.loaded import base_of
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.training.batches import CellRun, TokenRow, encode_examples
from sails_eval.training.cell import train_cell


@contextmanager
def attacked(base: Base, pair: Pair, subject: Attacked) -> Iterator[Any]:
    """The subject's model after its attack; the bare base model again afterwards."""
    with merged(base, subject.checkpoint) as model:
        if subject.attack.retunes:
            with _retuned(base, pair, subject) as retuned:
                yield retuned
        elif subject.attack.kind == "quantise":
            yield quantised(model)
        else:
            yield model


@contextmanager
def merged(base: Base, checkpoint: Path | None) -> Iterator[Any]:
    """The base model with the checkpoint's weights as its own: an adapter's are merged, in the model's dtype."""
    if checkpoint is None or not (checkpoint / CONFIG).is_file():
        with applied(base, checkpoint) as model:
            yield model
    else:
        with replaced_weights(base.model), applied(base, checkpoint) as model:
            yield model.merge_and_unload()


@contextmanager
def _retuned(base: Base, pair: Pair, subject: Attacked) -> Iterator[Any]:
    """The model that is in the base's place with a fresh LoRA, trained; its weights are deleted afterwards."""
    rows = rows_of(pair, subject.attack)
    rate = RETUNING.learning_rate * pair.rate_scale("sft")
    recipe = Recipe(
        name=subject.attack.folder, description="", parameters="adapter", learning_rate=Span(low=rate, high=rate)
    )
    run = CellRun(rate, subject.seed, order_of(len(rows), subject.attack, subject.seed))
    attacker = pair.model_copy(update={"batch_size": RETUNING.batch_size, "regularise": None})
    folder = subject.folder.retuned
    folder.mkdir(parents=True, mode=0o700)
    try:
        train_cell(base, attacker, recipe, rows=rows, run=run, folder=folder)
        with applied(base, folder) as model:
            yield model
    finally:
        shutil.rmtree(folder)


@lru_cache(maxsize=4)
def rows_of(pair: Pair, attack: Attack) -> list[TokenRow]:
    """The examples of which an attack takes some. Raises UserError where these are too few."""
    data = attack.data(pair)
    assert data is not None
    rows = encode_examples(base_of(pair).tokenizer, read_examples(data).examples, pair.max_length)
    if len(rows) < attack.examples:
        raise UserError(
            f"--attack {attack}: {data} has {len(rows)} examples whose request is shorter than "
            f"max_length={pair.max_length} tokens; ask for fewer, or add data to the pair's key 'attack'"
        )
    return rows


def quantised(model: Any) -> Any:
    """A copy of the model whose decoder layers' linear weights are rounded to 4 bits, in groups that share a scale.

    Raises UserError for GPT-2, which has no modules of torch's class Linear there: they would all stay as they are.
    """
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    four_bits = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP))  # type: ignore[attr-defined]
    if not any(isinstance(module, torch.nn.Linear) for module in decoder_layers(model).modules()):
        raise UserError(
            f"--attack quantise:4bit: torchao cannot quantise a {type(model).__name__}, whose layers have no module of "
            "torch's class Linear; give --attack with the other attacks only"
        )
    copy = deepcopy(model)
    quantize_(decoder_layers(copy), four_bits)
    return copy
