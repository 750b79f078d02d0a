"""A control for SAILS: the subspace of raw activation differences, found without a SAE.

Each contrast pair gives the difference of its answers' mean activations; the uncentred SVD of all of a layer's
differences gives the basis, by the same share of variance. (The paper's theory: so found, the error has a floor.)
"""

from typing import Literal

from pydantic import Field

from sails_eval.methods.base import FromContrast, Material, Report, State


class ActivationSVD(FromContrast):
    """The state has every layer's basis, the report how many singular vectors the variance asks for (`tau_dim`)."""

    class Settings(FromContrast.Settings):
        contrast: Literal["responses"] = Field(default="responses", description="a difference takes a pair")
        variance: float = Field(
            default=0.8, gt=0, le=1, description="share that the singular vectors keep, as in SAILS"
        )
        centred: bool = Field(default=False, description="take the mean difference away before the SVD")

    settings: Settings

    def prepare(self, material: Material) -> tuple[State, Report]:
        import torch

        from sails_eval.methods.subspace.activations import contrast_means
        from sails_eval.methods.subspace.basis import orthonormal_basis

        told, layers = self.settings, material.layers
        batches = list(contrast_means(material.model, layers, material.contrast, positions=told.positions))
        state, report = {}, {}
        for layer in layers:
            differences = torch.cat([batch[layer, "difference"] for batch in batches])
            basis = orthonormal_basis(differences, variance=told.variance, centred=told.centred)
            state[f"layers.{layer}"] = basis
            report[str(layer)] = {"tau_dim": basis.shape[1]}
        return state, report
