"""EVA: lora_A from the right singular vectors of a module's inputs (Paischer et al. 2024, arXiv 2410.07170), by PEFT.

The inputs are those of the aligned contrast texts, which SAILS looks at, too. All modules keep the same rank, so that
the trainable parameters are LoRA's; EVA's redistribution of ranks is left out.
"""

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods.base import Flops, Initialisation, Material, Report, State, adapted_modules


class EVA(Initialisation):
    """The state has every module's lora_A [r, d_in], by the module's name."""

    class Settings(Frozen):
        contrast: Literal["responses"] = Field(
            default="responses", description="the aligned answers and their requests"
        )
        whiten: bool = Field(default=False, description="whether the singular vectors are whitened; PEFT's default")
        batch_size: int = Field(default=16, ge=1, description="texts at a time")

    settings: Settings
    needs = frozenset({"aligned"})
    costs_more = True  # it reads on until its components settle

    def prepare(self, material: Material) -> tuple[State, Report]:
        import torch
        from peft import EvaConfig
        from peft.tuners.lora.eva import get_eva_state_dict

        from sails_eval.methods.subspace.activations import padded

        texts, size = [text.ids for text in material.contrast.aligned], self.settings.batch_size
        batches = (padded(texts[i : i + size], material.model.device) for i in range(0, len(texts), size))
        inputs = [{"input_ids": ids, "attention_mask": mask} for ids, mask in batches]
        told = EvaConfig(rho=1.0, whiten=self.settings.whiten)
        config = replace(material.adapter_config, init_lora_weights="eva", eva_config=told)
        with torch.no_grad():
            found = get_eva_state_dict(material.model, inputs, config, show_progress_bar=False)
        return {name: down.float().cpu() for name, down in found.items()}, {"modules": len(found)}

    def initialise(self, model: Any, state: State, *, seed: int) -> None:
        """lora_B stays at zero; where a singular vector is missing, the row of lora_A stays PEFT's."""
        import torch

        with torch.no_grad():
            for name, module in adapted_modules(model):
                down = module.lora_A["default"].weight
                found = state[name].to(down)
                down[: len(found)] = found

    def cost(self, flops: Flops) -> float:
        return flops.walking([text.ids for text in flops.contrast.aligned], at_a_time=self.settings.batch_size)
