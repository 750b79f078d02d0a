"""CorDA: LoRA from the singular vectors of weight × covariance of inputs (Yang et al. 2024, arXiv 2406.05223), by PEFT.

In the instruction-previewed mode the largest components of a weight, on inputs of the aligned contrast texts, become
the adapter and are taken away from the base weight; in the knowledge-preserved mode the smallest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods import Material, Need, adapted_modules
from sails_eval.models.base import replaced_weights

needs: frozenset[Need] = frozenset({"aligned"})

MUTATES_BASE = True


class Settings(Frozen):
    """What the inputs are of, and which components are adapted."""

    contrast: Literal["responses"] = Field(default="responses", description="the aligned answers and their requests")
    mode: Literal["ipm", "kpm"] = Field(
        default="ipm", description="instruction-previewed (default) or knowledge-preserved, as PEFT's corda_method"
    )


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: every module's lora_A [r, d_in] as `NAME.A`, and its lora_B [d_out, r] as `NAME.B`."""
    from peft import get_peft_model
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda

    model, told = material.model, CordaConfig(corda_method=settings.mode, verbose=False)
    config = replace(material.adapter_config, init_lora_weights="corda", corda_config=told)

    @torch.no_grad()
    def read_texts() -> None:
        for text in material.contrast.aligned:
            model(torch.tensor([text.ids], device=model.device))

    state: dict[str, torch.Tensor] = {}
    with replaced_weights(model):
        preprocess_corda(model, config, run_model=read_texts)
        adapted = get_peft_model(model, config)
        for name, module in adapted_modules(adapted):
            state[f"{name}.A"] = module.lora_A["default"].weight.detach().float().cpu().clone()
            state[f"{name}.B"] = module.lora_B["default"].weight.detach().float().cpu().clone()
        adapted.unload()
    for module in model.modules():
        module.__dict__.pop("eigens", None)
    return state, {"modules": len(state) // 2}


def initialise(model: Any, state: Mapping[str, torch.Tensor], *, settings: Settings, seed: int) -> None:
    """Once per cell: both matrices from the state, and their product taken away from the base weight."""
    with torch.no_grad():
        for name, module in adapted_modules(model):
            down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
            down.copy_(state[f"{name}.A"])
            up.copy_(state[f"{name}.B"])
            weight = module.get_base_layer().weight
            weight.sub_((module.scaling["default"] * up @ down).to(weight))
