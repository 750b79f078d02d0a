"""The very subspace that was planted into the model, at its layer only, where the pair has one."""

from __future__ import annotations

from typing import Any

import torch

from sails_eval.basis import Placement, initialise
from sails_eval.methods import Material, Need

__all__ = ["Settings", "initialise", "needs", "prepare"]

needs: frozenset[Need] = frozenset({"planted"})


class Settings(Placement):
    """How the planted basis is placed."""


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: the planted bases of the layers that have one."""
    return {f"layers.{layer}": planted for layer, planted in material.planted.items()}, {}
