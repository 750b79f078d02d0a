"""The very subspace that was planted into the model, at its layer only, where the pair has one."""

from pydantic import Field

from sails_eval.methods.base import FromBasis, Material, Report, State
from sails_eval.methods.subspace.settings import Placement


class Oracle(FromBasis):
    """The state has the planted bases of the layers that have one."""

    class Settings(Placement):
        columns: int | None = Field(
            default=None,
            ge=0,
            description="how many columns of the planted subspace are given, the rest of the rank being random: a "
            "dose, and at 0 a control; null (default): all",
        )

    settings: Settings
    needs = frozenset({"planted"})

    def prepare(self, material: Material) -> tuple[State, Report]:
        columns = self.settings.columns
        return {f"layers.{layer}": planted[:, :columns] for layer, planted in material.planted.items()}, {}
