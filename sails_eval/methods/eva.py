"""EVA: lora_A from the right singular vectors of a module's inputs (Paischer et al. 2024, arXiv 2410.07170), by PEFT.

The inputs are those of the aligned contrast texts, which SAILS looks at, too. All modules keep the same rank, so that
the trainable parameters are LoRA's; EVA's redistribution of ranks is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods import Material, Need, adapted_modules

needs: frozenset[Need] = frozenset({"aligned"})


class Settings(Frozen):
    """What the inputs are of, and how they are decomposed."""

    contrast: Literal["responses"] = Field(default="responses", description="the aligned answers and their requests")
    whiten: bool = Field(default=False, description="whether the singular vectors are whitened; PEFT's default")
    batch_size: int = Field(default=16, ge=1, description="texts at a time")


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: every module's lora_A [r, d_in], by the module's name."""
    from peft import EvaConfig
    from peft.tuners.lora.eva import get_eva_state_dict

    from sails_eval.methods.subspace.activations import padded

    texts = [text.ids for text in material.contrast.aligned]
    batches = [texts[i : i + settings.batch_size] for i in range(0, len(texts), settings.batch_size)]
    inputs = [
        {"input_ids": ids, "attention_mask": mask} for ids, mask in (padded(b, material.model.device) for b in batches)
    ]
    config = replace(
        material.adapter_config, init_lora_weights="eva", eva_config=EvaConfig(rho=1.0, whiten=settings.whiten)
    )
    with torch.no_grad():
        found = get_eva_state_dict(material.model, inputs, config, show_progress_bar=False)
    return {name: down.float().cpu() for name, down in found.items()}, {"modules": len(found)}


def initialise(model: Any, state: Mapping[str, torch.Tensor], *, settings: Settings, seed: int) -> None:
    """Once per cell: lora_A from the state, lora_B stays at zero. A singular vector that is missing stays PEFT's."""
    with torch.no_grad():
        for name, module in adapted_modules(model):
            down = module.lora_A["default"].weight
            found = state[name].to(down)
            down[: len(found)] = found
