"""A control for SAILS: random orthonormal bases, which say nothing of safety, at the same layers.

Each seed draws its own; the modules at a layer share one, as they share the subspace of SAILS.
"""

from typing import Any, Literal

from pydantic import Field

from sails_eval.methods.base import FromBasis, Material, Report, State
from sails_eval.methods.subspace.settings import Placement


class RandomOrthonormal(FromBasis):
    """The state has bases without a vector, which tell the layers; every cell draws one as wide as the rank."""

    class Settings(Placement):
        fill: Literal["random"] = Field(default="random", description="there is nothing here but the fill")

    settings: Settings
    needs = frozenset({"layers"})

    def prepare(self, material: Material) -> tuple[State, Report]:
        import torch

        return {f"layers.{layer}": torch.zeros(material.width, 0) for layer in material.layers}, {}

    def initialise(self, model: Any, state: State, *, seed: int) -> None:
        from sails_eval.methods.subspace.basis import complete_basis

        rank = next(iter(model.peft_config.values())).r
        drawn = {
            name: complete_basis(empty, rank, fill="random", seed=f"{seed}:{name}") for name, empty in state.items()
        }
        super().initialise(model, drawn, seed=seed)
