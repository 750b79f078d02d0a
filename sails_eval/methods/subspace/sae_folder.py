"""SAEs that were trained for a model, in a folder of their own.

It holds `layer_N`, as SAELens saves them, `training.json` with what they depend on and how good they are, and
README.md, the card.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import Field

from sails_eval.core.data_source import Mixture, Selection, origins
from sails_eval.core.errors import UserError
from sails_eval.core.files import locked, remove, write_text, writing
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.pair import CACHE, Pair
from sails_eval.core.paths import made
from sails_eval.core.schema import Frozen, Record
from sails_eval.data.reading import pinned
from sails_eval.methods.subspace.activations import OUTLIER
from sails_eval.methods.subspace.sae_quality import GOOD
from sails_eval.methods.subspace.sae_training import (
    DEAD_AFTER,
    WORK,
    SaeSettings,
    TrainedSae,
    check_length,
    train_saes,
)
from sails_eval.methods.subspace.text_windows import windows
from sails_eval.models.base import config_of, context_of, load_tokenizer
from sails_eval.models.identity import model_identity
from sails_eval.models.loaded import base_of

log = logging.getLogger(__name__)

Source = Path | Selection | Mixture

RECORD, CARD = "training.json", "README.md"

LIBRARIES = ("torch", "transformers", "sae-lens")


class LayerRecord(Frozen):
    """A layer's SAE on text that it was not trained on, and the share of its features that died in training."""

    explained: float = Field(description="share of the variance")
    l0: float = Field(description="active features at a token, on average")
    active: float = Field(description="share of features that are active at least once")
    dead: float = Field(description="share of features that were not active over the last tokens of training")

    @classmethod
    def of(cls, sae: TrainedSae) -> Self:
        found = sae.quality
        told = {"explained": found.explained, "l0": found.l0, "active": found.active, "dead": sae.dead}
        return cls(**{key: round(value, 4) for key, value in told.items()})

    @property
    def good(self) -> bool:
        return self.explained >= GOOD


class SaeRecord(Record):
    """What SAEs were trained on, and, once they are, how good they are by layer."""

    model: str = Field(description="its name")
    texts: str = Field(description="name of the file or data set")
    identity: str = Field(description="hash of the model, its chat template and the texts")
    settings: SaeSettings = Field(description="of the training")
    versions: dict[str, str] = Field(description="of the libraries")
    fix: ClassVar[str] = "restore it, or give another --out"

    layers: dict[int, LayerRecord] = Field(default_factory=dict, description="by layer; empty until all are trained")

    @classmethod
    def planned(cls, pair: Pair, texts: Source, settings: SaeSettings) -> Self:
        """What is to be trained. Raises UserError where the model or the data cannot be had."""
        known, data = model_identity(pair), pinned(texts)
        files = [of_path(Path(origin)) for origin in origins(data) if Path(origin).is_file()]
        return cls(
            model=Path(pair.model).name if Path(pair.model).is_dir() else pair.model,
            texts=texts.name,
            identity=digest([known["weights"], known["chat_template"], data, files]),
            settings=settings,
            versions={name: version(name) for name in LIBRARIES},
        )

    def check_same(self, other: SaeRecord, folder: Path) -> None:
        """Raises UserError where a folder holds SAEs of `other` models, texts or settings."""
        mine, theirs = (one.model_dump(exclude={"layers", "settings"}) for one in (self, other))
        mine, theirs = mine | self.settings.model_dump(), theirs | other.settings.model_dump()
        if differs := next((key for key in mine if mine[key] != theirs.get(key)), None):
            raise UserError(
                f"{folder}: its SAEs were trained with another '{differs}' ({theirs[differs]}, not {mine[differs]}); "
                "give another --out, or delete this folder"
            )


def train_for(pair: Pair, texts: Source, settings: SaeSettings, *, folder: Path, quiet: bool = False) -> SaeRecord:
    """Train SAEs of a pair's model, or resume, in a folder; what is finished there already is not trained again.

    Raises UserError where the text is too short, the model has no such layers, or the folder holds other SAEs.
    """
    check_settings(pair, settings)
    planned = SaeRecord.planned(pair, texts, settings)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, folder / ".lock"):
        return _trained(pair, texts, planned, folder, quiet=quiet)


def _trained(pair: Pair, texts: Source, planned: SaeRecord, folder: Path, *, quiet: bool) -> SaeRecord:
    begun = any((folder / WORK).glob("*"))
    if (folder / RECORD).is_file():
        there = SaeRecord.read(folder / RECORD)
        if there.layers or begun:
            planned.check_same(there, folder)
        if there.layers and all((folder / f"layer_{layer}").is_dir() for layer in there.layers):
            remove(folder / WORK)
            return there
    elif begun or any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"{folder}: holds other files, but no {RECORD} of such a training; give another --out")
    settings = planned.settings
    text = partial(windows, load_tokenizer(pair), texts, context=settings.context, seed=settings.seed)
    check_length(text(), settings)
    planned.write(folder / RECORD)
    trained = train_saes(base_of(pair).model, text, settings, folder=folder, quiet=quiet)
    record = planned.model_copy(update={"layers": {layer: LayerRecord.of(sae) for layer, sae in trained.items()}})
    for layer, one in record.layers.items():
        if not one.good:
            log.warning(
                "the SAE of layer %d is poor: it explains %.2f of the variance (good: %g); give more --tokens, "
                "--passes or --features, or a higher --l0",
                layer,
                one.explained,
                GOOD,
            )
    write_text(folder / CARD, card(record))
    record.write(folder / RECORD)
    remove(folder / WORK)
    return record


def check_settings(pair: Pair, settings: SaeSettings) -> None:
    """Raises UserError where the model lacks one of the layers, or reads no texts as long as these."""
    if settings.context > (most := context_of(pair)):
        raise UserError(f"--context {settings.context}: model '{pair.model}' reads at most {most} tokens at once")
    n = config_of(pair).get_text_config().num_hidden_layers
    if strange := [layer for layer in settings.layers if not 0 <= layer < n]:
        raise UserError(f"--layers {strange[0]}: model '{pair.model}' has {n} layers, counted from 0")


def usual_settings(pair: Pair) -> dict[str, Any]:
    """Texts as long as the model can read, and four layers at equal distances.

    Those are, as of the paper's 26 layers of Gemma 2 2B, 5, 10, 15 and 20.
    """
    n, longest = config_of(pair).get_text_config().num_hidden_layers, SaeSettings.model_fields["context"].default
    return {"layers": sorted({n * part // 5 for part in range(1, 5)}), "context": min(longest, context_of(pair))}


def saes_yaml(record: SaeRecord, folder: Path) -> list[str]:
    """The lines of a pair's YAML that use the SAEs."""
    told = {"training_tokens": record.settings.samples, "passes": record.settings.passes, "self_trained": True}
    place = CACHE / folder.relative_to(made()) if folder.is_relative_to(made()) else folder
    saes = [{"path": str(place / f"layer_{layer}"), "layer": layer, **told} for layer in record.layers]
    lines = [yaml.safe_dump(sae, default_flow_style=True, sort_keys=False, width=math.inf).strip() for sae in saes]
    return ["saes:", *(f"  - {line}" for line in lines)]


def card(record: SaeRecord) -> str:
    """The README of the folder. It says nothing of the machine or the time."""
    settings = record.settings
    rows = [
        f"| {layer} | {one.explained:.3f} | {one.l0:.1f} | {one.dead:.1%} | {'' if one.good else 'poor'} |"
        for layer, one in record.layers.items()
    ]
    table = "\n".join(rows)
    return f"""\
---
library_name: saelens
tags: [sparse-autoencoder]
---
# SAEs of {record.model}

JumpReLU SAEs of the residual stream after layers {", ".join(map(str, record.layers))} of the model, trained
as BatchTopK with SAELens {record.versions["sae-lens"]} by `sails-eval saes train`.

| layer | variance explained | L0 | dead features | |
|---|---|---|---|---|
{table}

Measured on {settings.held_out} tokens that nothing was trained on. The first token of every text, and tokens whose
residual stream is longer than {OUTLIER:g} times the median, are left out of training and of measuring. A feature is
dead if it was active at none of the last {DEAD_AFTER} tokens of training. Poor: explains less than {GOOD:g} of the
variance.

- Texts: {record.texts}; {settings.tokens} tokens, {settings.passes} passes over their activations
- {settings.features} features, of which {settings.l0} are active at a token of the training on average
- Batches of {settings.batch_size} tokens, learning rate {settings.learning_rate:g}, seed {settings.seed}
- Texts of up to {settings.context} tokens
"""
