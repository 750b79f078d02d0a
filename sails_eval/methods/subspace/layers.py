"""Which layers get a basis, and what an initialisation freezes: known before a weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch

from sails_eval.core.pair import Pair, SaeSource
from sails_eval.core.recipe import Recipe
from sails_eval.core.schema import read_mapping, validate
from sails_eval.methods import load_initialisation


def sae_layer(source: SaeSource) -> int | None:
    """The layer whose output a SAE reads, by the number in its hook's name, or in its id; None where neither tells."""
    if source.layer is not None:
        return source.layer
    name = source.id or ""
    if source.path is not None:
        told = read_mapping(source.path / "cfg.json")  # JSON is YAML, too
        name = str(told.get("metadata", told).get("hook_name", ""))
    found = re.search(r"\d+", name)
    return int(found.group()) if found else None


def basis_layers(saes: Sequence[SaeSource], layers: int) -> list[int]:
    """The layers of these SAEs, ascending, in a model of so many; all where there is no SAE.

    One that does not tell its layer is taken to be at the last.
    """
    told = {sae_layer(sae) for sae in saes}
    return sorted(layers - 1 if layer is None else layer for layer in told) or list(range(layers))


def freezes(recipe: Recipe) -> bool:
    """Whether a recipe's initialisation leaves a part of the adapter untrained."""
    return recipe.settings.get("basis") == "frozen" or recipe.settings.get("uncovered") == "skip"


def freeze(model: Any, pair: Pair, recipe: Recipe) -> None:
    """Freeze on the meta device what the initialisation of a recipe that `freezes` would: it is given empty bases."""
    assert recipe.init is not None
    module, config = load_initialisation(recipe.init), model.config.get_text_config()
    settings: Any = validate(module.Settings, recipe.settings, where=f"recipe '{recipe.name}', settings")
    layers = basis_layers(pair.sae_sources(getattr(settings, "saes", None)), config.num_hidden_layers)
    empty = {f"layers.{layer}": torch.zeros(config.hidden_size, 0) for layer in layers}
    # gains freeze nothing, and on the meta device norms have none
    module.initialise(model, empty, settings=settings.model_copy(update={"gains": "ignored"}), seed=0)
