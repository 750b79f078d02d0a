"""What is wrong with a model is found alike by `pairs check`, `plan` and, before anything is trained, `compare`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, MambaConfig, MixtralConfig, Phi3Config

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.plan.catalog.pairs import check_pair
from sails_eval.plan.checks import check_training
from sails_eval.plan.cost.forecast import Forecast, forecast
from sails_eval.plan.cost.meta_model import shape_of
from sails_eval.plan.cost.step_cost import step_cost
from sails_eval.plan.prepare import prepare

SIZE: dict[str, Any] = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ARCHITECTURES = {
    "phi3": lambda: Phi3Config(**SIZE, **SMALL, num_key_value_heads=2),
    "gpt2": lambda: GPT2Config(**SIZE, n_embd=32, n_layer=2, n_head=2),
    "mamba": lambda: MambaConfig(**SIZE, hidden_size=32, num_hidden_layers=2, state_size=4),
    "mixtral": lambda: MixtralConfig(**SIZE, **SMALL, num_key_value_heads=2, num_local_experts=2),
}


class Made:
    """A pair with the tiny Llama, a SAE of which only the configuration is there, and what a test changes of them."""

    def __init__(self, folder: Path, llama: Path) -> None:
        self.folder, self.model, self.sae = folder, shutil.copytree(llama, folder / "model"), folder / "sae"
        self.pointer = False
        self.keys: dict[str, Any] = {
            "model": "./model",
            "dtype": "float32",
            "saes": [{"path": "sae"}],
            "train": "data.jsonl",
            "contrast": "data.jsonl",
            "tasks": ["testbed"],
            "judge": "rules",
            "rank": 2,
            "max_length": 64,
        }
        self.row = {"prompt": "Tell me how to bake bread.", "chosen": "I cannot.", "rejected": "Here is how."}
        self.hook = "model.layers.0"
        self.told: dict[str, Any] = {"d_in": 32}

    def architecture(self, name: str, *modules: str) -> None:
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(ARCHITECTURES[name]()).save_pretrained(self.model)
        self.keys["target_modules"] = list(modules)

    def write(self) -> Path:
        made = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=self.told["d_in"], d_sae=8, k=2))
        made.cfg.metadata.hook_name = self.hook
        made.save_inference_model(str(self.sae))
        config = json.loads((self.sae / "cfg.json").read_text()) | self.told
        (self.sae / "cfg.json").write_text(json.dumps(config))
        if self.pointer:
            (self.sae / "sae_weights.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
        (self.folder / "data.jsonl").write_text("".join(f"{json.dumps(self.row)}\n" for _ in range(16)))
        path = self.folder / "pair.yaml"
        path.write_text(yaml.safe_dump(self.keys))
        return path

    def forecast(self) -> Forecast:
        (made,) = forecast(CompareConfig(pair=str(self.write()), seeds=1))
        return made


@pytest.fixture
def made(tmp_path: Path, tiny_llama_dir: Path) -> Made:
    return Made(tmp_path, tiny_llama_dir)


def truncate(made: Made) -> None:
    weights = made.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])


def add_token(made: Made, *, said: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(made.model)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    if said:
        made.row["prompt"] += "<|tool|>"
    else:
        tokenizer.pad_token = "<|tool|>"
    tokenizer.save_pretrained(made.model)


def drop_answers(made: Made) -> None:
    (made.model / "chat_template.jinja").write_text("Q {{ messages[0]['content'] }}")


WRONG: dict[str, tuple[Callable[[Made], Any], str]] = {
    "side": (
        lambda made: made.architecture("phi3", "qkv_proj", "lm_head"),
        r"method 'sails' cannot train .*cannot tell whether target module 'lm_head' reads",
    ),
    "missing module": (
        lambda made: made.architecture("gpt2", "q_proj"),
        "unknown target module 'q_proj'; did you mean",
    ),
    "kind of module": (
        lambda made: made.architecture("gpt2", "ln_1"),
        "target module 'ln_1' of GPT2LMHeadModel is a LayerNorm",
    ),
    "no attention": (
        lambda made: made.architecture("mamba", "in_proj"),
        r"method 'sails' cannot train .*no module of a mamba model can start from a basis",
    ),
    "cut off": (truncate, "damaged or cut off"),
    "template": (drop_answers, "does not write the assistant's answer"),
    "padding beyond the embedding": (
        lambda made: add_token(made, said=False),
        r"more tokens than the model.*padding uses",
    ),
    "data beyond the embedding": (lambda made: add_token(made, said=True), r"more tokens than the model"),
    "SAE's width": (lambda made: made.told.update(d_in=16), "reads vectors of width 16"),
    "SAE's layer": (
        lambda made: vars(made).update(hook="model.layers.7"),
        "of layer 7: the model has 2",
    ),
    "SAE's hook": (
        lambda made: vars(made).update(hook="model.embed_tokens"),
        "not the output of a layer",
    ),
    "SAE's scale": (
        lambda made: made.told.update(normalize_activations="expected_average_only_in"),
        "scaled by 'expected_average_only_in'",
    ),
    "SAE's pointer": (
        lambda made: vars(made).update(pointer=True),
        "a pointer of git-lfs",
    ),
}


QUICK = ("missing module", "template", "SAE's layer", "data beyond the embedding")


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in WRONG]
)
def test_what_is_wrong_is_found_by_all_before_anything_is_trained(made: Made, kind: str) -> None:
    change, told = WRONG[kind]
    change(made)
    path = made.write()
    with pytest.raises(UserError, match=told):
        for one in prepare(CompareConfig(pair=str(path), seeds=1, out=made.folder / "run")).sub_runs:
            check_training(one)
    planned = [problem.told for problem in made.forecast().problems if problem.stops]
    checked = [finding.told for finding in check_pair(load_pair(str(path))) if finding.state == "wrong"]
    for found in (planned, checked):
        assert any(re.search(told, line) for line in found), found


def test_what_only_has_to_be_known_is_told_by_all(made: Made) -> None:
    dated = "{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}\n{% endfor %}"
    (made.model / "chat_template.jinja").write_text(dated)
    notes = ["uses the current time", "ends answers without a special token, so .* with <\\|end\\|>"]
    checked = [finding.told for finding in check_pair(load_pair(str(made.write()))) if finding.state == "warning"]
    planned = [problem.told for problem in made.forecast().problems if not problem.stops]
    made.keys["saes"] = []
    (one,) = prepare(
        CompareConfig(pair=str(made.write()), seeds=1, methods=("lora",), out=made.folder / "run")
    ).sub_runs
    for told in (checked, planned, check_training(one).beware):
        assert all(any(re.search(note, line) for line in told) for note in notes)


@pytest.mark.slow
def test_a_model_without_attention_costs_the_same_for_every_token(made: Made) -> None:
    made.architecture("mamba", "in_proj")
    pair = load_pair(str(made.write()))
    short, long = (step_cost(shape_of(pair), pair, load_recipe("lora"), length=length) for length in (32, 64))
    assert short.flops_per_token == long.flops_per_token > 0
    assert long.memory.activations == 2 * short.memory.activations


def test_a_plan_without_costs_is_one_all_the_same(made: Made) -> None:
    """The experts of Mixtral, in single precision, are multiplied in a way that knows no shapes without data."""
    made.architecture("mixtral", "q_proj")
    found = made.forecast()
    assert not found.costs and not any(problem.stops for problem in found.problems)
    assert any("the cost of a training step cannot be estimated" in problem.told for problem in found.problems)
