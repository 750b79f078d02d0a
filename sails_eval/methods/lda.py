"""A control for SAILS: linear discriminant directions of raw activations, one for each category of requests.

The direction of a category is Σ⁻¹(mean of aligned − mean of unaligned texts), where Σ is the covariance within all
categories and classes, with Ledoit and Wolf's shrinkage. The rest of the rank is filled as in SAILS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sails_eval.methods.base import FromContrast, Material, Report, State

if TYPE_CHECKING:
    import torch

FEWEST = 2
"""Pairs of texts that a category needs for a direction of its own; smaller ones are one category together."""


class LDA(FromContrast):
    """The state has every layer's basis of the categories' directions, the report says which categories there are."""

    class Settings(FromContrast.Settings):
        contrast: Literal["responses"] = Field(default="responses", description="categories are those of pairs")

    settings: Settings

    def prepare(self, material: Material) -> tuple[State, Report]:
        import torch

        from sails_eval.methods.subspace.activations import contrast_means, stacked
        from sails_eval.methods.subspace.basis import orthonormal_basis, unit

        positions, layers = self.settings.positions, material.layers
        contrast = material.contrast.by_length()  # the order of the rows
        found = stacked(contrast_means(material.model, layers, contrast, positions=positions))
        groups = _categories(contrast.groups, len(contrast.aligned))
        state, report = {}, {}
        for layer in layers:
            directions = discriminants(found[layer, "aligned"], found[layer, "unaligned"], groups)
            basis = orthonormal_basis(unit(torch.stack(list(directions.values()))), variance=1.0)
            state[f"layers.{layer}"] = basis.columns
            report[str(layer)] = {"categories": list(directions), **basis.report()}
        return state, report


def discriminants(aligned: torch.Tensor, unaligned: torch.Tensor, groups: list[str]) -> dict[str, torch.Tensor]:
    """A direction [d] for each category; rows of `aligned` and `unaligned` [n, d] are pairs, `groups` theirs."""
    import torch
    from sklearn.covariance import LedoitWolf

    rows = {name: torch.tensor([group == name for group in groups]) for name in sorted(set(groups))}
    classes = [(side[chosen], side[chosen].mean(0)) for chosen in rows.values() for side in (aligned, unaligned)]
    within = torch.cat([texts - mean for texts, mean in classes])
    covariance = torch.from_numpy(LedoitWolf(assume_centered=True).fit(within.double().numpy()).covariance_)
    return {
        name: torch.linalg.solve(covariance, (aligned[chosen].mean(0) - unaligned[chosen].mean(0)).double()).float()
        for name, chosen in rows.items()
    }


def _categories(groups: Sequence[str], n: int) -> list[str]:
    """The category of every pair; of data without categories, and of rare ones, the same."""
    groups = list(groups) or [""] * n
    return [group if groups.count(group) >= FEWEST else "" for group in groups]
