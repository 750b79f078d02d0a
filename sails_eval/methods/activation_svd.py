"""A control for SAILS: the subspace of raw activation differences, found without an SAE.

Each contrast pair gives the difference of its answers' mean activations, each harmful request that from the mean of the
harmless ones; the uncentred SVD of all of a layer's differences gives the basis, of no more columns than there are
differences. (The paper's theory: so found, the error has a floor.)
"""

from sails_eval.methods.base import FromContrast, Material, Report, State
from sails_eval.methods.subspace.settings import SpanSettings


class ActivationSVD(FromContrast):
    """The state has every layer's basis, the report what share of all differences its vectors hold."""

    class Settings(FromContrast.Settings, SpanSettings):
        pass

    settings: Settings

    def prepare(self, material: Material) -> tuple[State, Report]:
        from sails_eval.methods.subspace.activations import contrast_means, stacked
        from sails_eval.methods.subspace.basis import orthonormal_basis

        told, layers = self.settings, material.layers
        found = stacked(contrast_means(material.model, layers, material.contrast, positions=told.positions))
        state, report = {}, {}
        for layer in layers:
            paired = (layer, "difference") in found
            differences = (
                found[layer, "difference"] if paired else found[layer, "unaligned"] - found[layer, "aligned"].mean(0)
            )
            basis = orthonormal_basis(differences, variance=told.variance, centred=told.centred)
            state[f"layers.{layer}"] = basis.columns
            report[str(layer)] = basis.report()
        return state, report
