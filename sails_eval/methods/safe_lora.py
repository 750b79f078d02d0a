"""SafeLoRA: after training, updates that leave the alignment subspace are projected onto it (Hsu et al. 2024).

Source: arXiv 2405.16833. The alignment matrix of a module is V = W_aligned − W_base, of a finished aligned model of the
pair's `references`; C = V Vᵀ / ‖V‖. A module whose update ΔW has a cosine below the threshold with CΔW gets CΔW
instead. Training itself is plain LoRA.
"""

from typing import Any

from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods.base import Initialisation, Material, Report, State, adapted_modules


class SafeLoRA(Initialisation):
    """The state has every module's alignment matrix V [d_out, d_in], by the module's name."""

    class Settings(Frozen):
        aligned: str = Field(description="one of the pair's 'references', or 'first': the first of them")
        threshold: float = Field(
            default=0.5,
            ge=-1,
            le=1,
            description="updates of a higher cosine stay; default 0.5, as in PEFT's example of it",
        )

    settings: Settings
    needs = frozenset({"aligned_model"})

    @property
    def aligned(self) -> str:
        return self.settings.aligned

    def prepare(self, material: Material) -> tuple[State, Report]:
        norms = {name: round(v.norm().item(), 6) for name, v in material.alignment.items()}
        return dict(material.alignment), {"norms": norms}

    def finish(self, model: Any, state: State) -> None:
        """Project the updates that point elsewhere: CΔW = (C lora_B) lora_A, so the adapter keeps its rank."""
        import torch

        with torch.no_grad():
            for name, module in adapted_modules(model):
                down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
                v = state[name].to(up)
                projected = v @ (v.T @ up) / v.norm()
                update, onto = (up @ down).flatten(), (projected @ down).flatten()
                if torch.nn.functional.cosine_similarity(update, onto, dim=0) <= self.settings.threshold:
                    up.copy_(projected)
