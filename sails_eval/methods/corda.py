"""CorDA: LoRA from the singular vectors of weight × covariance of inputs (Yang et al. 2024, arXiv 2406.05223), by PEFT.

In the instruction-previewed mode the largest components of a weight, on inputs of the aligned contrast texts, become
the adapter and are taken away from the base weight; in the knowledge-preserved mode the smallest.
"""

from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from sails_eval.core.schema import Frozen
from sails_eval.methods.base import Flops, Initialisation, Material, Report, State, adapted_modules


class CorDA(Initialisation):
    """The state has every module's lora_A [r, d_in] as `NAME.A`, and its lora_B [d_out, r] as `NAME.B`."""

    class Settings(Frozen):
        contrast: Literal["responses"] = Field(
            default="responses", description="the aligned answers and their requests"
        )
        mode: Literal["ipm", "kpm"] = Field(
            default="ipm", description="instruction-previewed (default) or knowledge-preserved, as PEFT's corda_method"
        )

    settings: Settings
    needs = frozenset({"aligned"})
    changes_base = True

    def prepare(self, material: Material) -> tuple[State, Report]:
        import torch
        from peft import get_peft_model
        from peft.tuners.lora.config import CordaConfig
        from peft.tuners.lora.corda import preprocess_corda

        from sails_eval.models.base import replaced_weights

        model, told = material.model, CordaConfig(corda_method=self.settings.mode, verbose=False)
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

    def initialise(self, model: Any, state: State, *, seed: int) -> None:
        """Both matrices from the state, and their product taken away from the base weight."""
        import torch

        from sails_eval.models.adapters import lying_as

        with torch.no_grad():
            for name, module in adapted_modules(model):
                down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
                down.copy_(state[f"{name}.A"])
                up.copy_(state[f"{name}.B"])
                base = module.get_base_layer()
                base.weight.sub_(lying_as(base, module.scaling["default"] * up @ down).to(base.weight))

    def cost(self, flops: Flops) -> float:
        """Text by text, with covariances, of which each one's inverse is checked; a weight is turned by it and back."""
        texts = [text.ids for text in flops.contrast.aligned]
        tokens = sum(map(len, texts))
        turning = (2.0 * d * d * (tokens + d + out + min(d, out)) for d, out in flops.target_modules())
        return sum(turning, flops.walking(texts, at_a_time=1))
