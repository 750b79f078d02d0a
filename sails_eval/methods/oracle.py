"""The very subspace that was planted into the model, at its layer only, where the pair has one."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from sails_eval.methods import Material, Need
from sails_eval.methods.subspace.basis import Placement, initialise

__all__ = ["Settings", "initialise", "needs", "prepare"]

needs: frozenset[Need] = frozenset({"planted"})


class Settings(Placement):
    """How the planted basis is placed."""

    columns: int | None = Field(
        default=None,
        ge=0,
        description="how many columns of the planted subspace are given, the rest of the rank being random: a dose, "
        "and at 0 a control; null (default): all",
    )


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: the planted bases of the layers that have one."""
    return {f"layers.{layer}": planted[:, : settings.columns] for layer, planted in material.planted.items()}, {}
