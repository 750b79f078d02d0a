"""A control for SAILS: the subspace of raw activation differences, found without a SAE.

Each contrast pair gives the difference of its answers' mean activations; the uncentred SVD of all of a layer's
differences gives the basis, by the same share of variance. (The paper's theory: so found, the error has a floor.)
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field

from sails_eval.methods import Material, Need
from sails_eval.methods.subspace.activations import contrast_means
from sails_eval.methods.subspace.basis import Placement, initialise, orthonormal_basis
from sails_eval.methods.subspace.contrast import ContrastSettings

__all__ = ["Settings", "initialise", "needs", "prepare"]

needs: frozenset[Need] = frozenset({"layers", "contrast"})


class Settings(ContrastSettings, Placement):
    """Which tokens, how much of their differences is kept, and how the basis is placed."""

    contrast: Literal["responses"] = Field(default="responses", description="a difference takes a pair")
    variance: float = Field(default=0.8, gt=0, le=1, description="share that the singular vectors keep, as in SAILS")
    centred: bool = Field(default=False, description="take the mean difference away before the SVD")


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: every layer's basis, and how many singular vectors the variance asks for (`tau_dim`)."""
    batches = list(contrast_means(material.model, material.layers, material.contrast, positions=settings.positions))
    state, report = {}, {}
    for layer in material.layers:
        differences = torch.cat([batch[layer, "difference"] for batch in batches])
        basis = orthonormal_basis(differences, variance=settings.variance, centred=settings.centred)
        state[f"layers.{layer}"] = basis
        report[str(layer)] = {"tau_dim": basis.shape[1]}
    return state, report
