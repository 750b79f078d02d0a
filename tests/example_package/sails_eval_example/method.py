"""A method of one's own: LoRA that reads a few coordinates of its input as they stand."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods import Initialisation, adapted_modules


class ExampleMethod(Initialisation):
    """lora_A is a slice of the identity, whose rows are orthonormal; lora_B stays at zero, so no logit changes."""

    class Settings(Frozen):
        """What a recipe may say below `settings`."""

        first: int = Field(default=0, ge=0, description="the coordinate that lora_A begins with")

    settings: Settings

    def initialise(self, model: Any, state: Any, *, seed: int) -> None:
        import torch

        for _, module in adapted_modules(model):
            down = module.lora_A["default"].weight  # [rank, d_in]
            with torch.no_grad():
                down.copy_(torch.eye(*down.shape).roll(self.settings.first, dims=1))
