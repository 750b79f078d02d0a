"""A control for SAILS: random orthonormal bases, which say nothing of safety, at the same layers.

Each seed draws its own; the modules at a layer share one, as they share the subspace of SAILS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from sails_eval.methods import Material, Need
from sails_eval.methods.subspace import basis

needs: frozenset[Need] = frozenset({"layers"})


class Settings(basis.Placement):
    """How the random basis is placed."""

    fill: Literal["random"] = Field(default="random", description="there is nothing here but the fill")


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: bases without a vector, which tell the layers."""
    return {f"layers.{layer}": torch.zeros(material.width, 0) for layer in material.layers}, {}


def initialise(model: Any, state: Mapping[str, torch.Tensor], *, settings: Settings, seed: int) -> None:
    """Once per cell: a basis drawn for each layer, as wide as the rank."""
    rank = next(iter(model.peft_config.values())).r
    drawn = {
        name: basis.complete_basis(empty, rank, fill="random", seed=f"{seed}:{name}") for name, empty in state.items()
    }
    basis.initialise(model, drawn, settings=settings, seed=seed)
