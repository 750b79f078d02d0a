"""A control for SAILS: the difference of the classes' mean activations, one direction per layer, found without an SAE.

The rest of the rank is filled as in SAILS. Such directions often beat SAE features at steering (AxBench, arXiv
2501.17148).
"""

from sails_eval.core.errors import UserError
from sails_eval.methods.base import FromContrast, Material, Report, State


class DifferenceInMeans(FromContrast):
    """The state has every layer's unit direction [d_model, 1], from unaligned to aligned, the report how far it was."""

    def prepare(self, material: Material) -> tuple[State, Report]:
        from sails_eval.methods.subspace.activations import contrast_means, moments
        from sails_eval.methods.subspace.basis import EPSILON, unit

        positions, layers = self.settings.positions, material.layers
        found = moments(contrast_means(material.model, layers, material.contrast, positions=positions))
        state, report = {}, {}
        for layer in layers:
            difference = (found[layer, "aligned"].mean - found[layer, "unaligned"].mean).float()
            distance = difference.norm().item()
            if not distance > EPSILON:
                raise UserError(
                    "aligned and unaligned contrast texts have the same mean activation; check that they differ"
                )
            state[f"layers.{layer}"] = unit(difference[None]).T
            report[str(layer)] = {"distance": round(distance, 6)}
        return state, report
