"""A control for SAILS: the difference of the classes' mean activations, one direction per layer, found without a SAE.

The rest of the rank is filled as in SAILS. Such directions often beat SAE features at steering (AxBench, arXiv
2501.17148).
"""

from __future__ import annotations

from typing import Any

import torch

from sails_eval.core.errors import UserError
from sails_eval.methods import Material, Need
from sails_eval.methods.subspace.activations import contrast_means, moments
from sails_eval.methods.subspace.basis import EPSILON, Placement, initialise, unit
from sails_eval.methods.subspace.contrast import ContrastSettings

__all__ = ["Settings", "initialise", "needs", "prepare"]

needs: frozenset[Need] = frozenset({"layers", "contrast"})


class Settings(ContrastSettings, Placement):
    """Which texts and tokens, and how the direction is placed."""


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: every layer's unit direction [d_model, 1], from unaligned to aligned, and how far it was."""
    found = moments(contrast_means(material.model, material.layers, material.contrast, positions=settings.positions))
    state, report = {}, {}
    for layer in material.layers:
        difference = (found[layer, "aligned"].mean - found[layer, "unaligned"].mean).float()
        distance = difference.norm().item()
        if not distance > EPSILON:
            raise UserError("aligned and unaligned contrast texts have the same mean activation; are they alike?")
        state[f"layers.{layer}"] = unit(difference[None]).T
        report[str(layer)] = {"distance": round(distance, 6)}
    return state, report
