"""SafeLoRA: after training, updates that leave the alignment subspace are projected onto it (Hsu et al. 2024).

Source: arXiv 2405.16833. The alignment matrix of a module is V = W_aligned − W_base, of a finished aligned model of the
pair's `references`; C = V Vᵀ / ‖V‖. A module whose update ΔW has a cosine below the threshold with CΔW gets CΔW
instead. Training itself is plain LoRA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods import Material, Need, adapted_modules

needs: frozenset[Need] = frozenset({"aligned_model"})


class Settings(Frozen):
    """Whose alignment counts, and from where on an update is left alone."""

    aligned: str = Field(description="one of the pair's 'references', or 'first': the first of them")
    threshold: float = Field(
        default=0.5, ge=-1, le=1, description="updates of a higher cosine stay; default 0.5, as in PEFT's example of it"
    )


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: every module's alignment matrix V [d_out, d_in], by the module's name."""
    norms = {name: round(v.norm().item(), 6) for name, v in material.alignment.items()}
    return dict(material.alignment), {"norms": norms}


def initialise(model: Any, state: Mapping[str, torch.Tensor], *, settings: Settings, seed: int) -> None:
    """PEFT's own start stays."""


def finish(model: Any, state: Mapping[str, torch.Tensor], *, settings: Settings) -> None:
    """After training: project the updates that point elsewhere.

    CΔW = (C lora_B) lora_A, so the adapter keeps its rank.
    """
    with torch.no_grad():
        for name, module in adapted_modules(model):
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            v = state[name].to(up)
            projected = v @ (v.T @ up) / v.norm()
            update, onto = up @ down, projected @ down
            if torch.nn.functional.cosine_similarity(update.flatten(), onto.flatten(), dim=0) <= settings.threshold:
                up.copy_(projected)
