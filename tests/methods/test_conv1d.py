"""GPT-2's Conv1D has its weight the other way round: what is taken from it or added to it has to lie as it does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from sails_eval.core.pair import Pair
from sails_eval.methods import adapted_modules
from sails_eval.methods.corda import CorDA
from sails_eval.methods.subspace.reference_weights import alignment
from sails_eval.models.adapters import add_adapter
from tests.tiny_models import tiny_model

IDS = torch.tensor([[5, 17, 40, 99, 123, 7]])
MODULES = ("c_attn", "attn.c_proj")


def adapted(model: Any) -> Any:
    return add_adapter(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=list(MODULES))).eval()


def test_corda_takes_away_what_its_adapter_adds() -> None:
    model = tiny_model("gpt2")
    before = model(IDS).logits
    wrapped, state = adapted(model), {}
    for name, module in adapted_modules(wrapped):
        for matrix, weights in (("A", module.lora_A), ("B", module.lora_B)):
            state[f"{name}.{matrix}"] = torch.randn_like(weights["default"].weight)
    CorDA(CorDA.Settings()).initialise(wrapped, state, seed=0)
    assert torch.allclose(wrapped(IDS).logits, before, atol=1e-3)
    with wrapped.disable_adapter():
        assert not torch.allclose(wrapped(IDS).logits, before, atol=1e-3)


@pytest.mark.parametrize("kind", ["adapter", "weights"])
def test_what_a_reference_adds_is_told_as_of_linear_modules(kind: str, tmp_path: Path) -> None:
    model, added = tiny_model("gpt2"), torch.randn(96, 4) @ torch.randn(4, 32)  # [d_out, d_in] of c_attn
    if kind == "weights":
        model.transformer.h[1].attn.c_attn.weight.data += added.T
        model.save_pretrained(str(tmp_path))
    else:
        wrapped = adapted(model)
        for name, module in adapted_modules(wrapped):
            if name == "transformer.h.1.attn.c_attn":
                left, values, right = torch.linalg.svd(added / module.scaling["default"], full_matrices=False)
                module.lora_B["default"].weight.data = left[:, :4] * values[:4]
                module.lora_A["default"].weight.data = right[:4]
        wrapped.save_pretrained(str(tmp_path))
    pair = Pair(name="p", model="m", target_modules=MODULES, references={"aligned": str(tmp_path)})
    found = dict(alignment(tiny_model("gpt2"), pair, "aligned"))
    assert torch.allclose(found["transformer.h.1.attn.c_attn"], added, atol=1e-4)
    assert not found["transformer.h.0.attn.c_attn"].any()
