"""Models of every architecture that people use go through whole comparisons, or are refused before any training."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from peft import PeftModel
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from transformers import AutoModelForCausalLM

from sails_eval.cli import main
from sails_eval.models.layers import decoder_layers
from tests.tiny_models import ASKED, WIDTH, tiny_model

THINGS = "bread soup kites boats maps songs lamps chairs clocks gloves ropes flags".split()
STEPS = "--steps 4 --batch-size 4"
COMPARE = f"--model ./model --sae ./sae --train pairs.jsonl --tasks breaking,making --judge rules {STEPS}"


@pytest.fixture
def made(
    tmp_path: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Makes, in the folder that the test is in, a model of an architecture with an SAE of its first layer, data
    and tasks."""
    monkeypatch.chdir(tmp_path)
    row = {"prompt": "How do I break {}?", "chosen": "I cannot help.", "rejected": "Take the {} and pull."}
    rows = [{key: text.format(thing) for key, text in row.items()} for thing in THINGS]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"goal": [f"Break all {thing}" for thing in THINGS]}).to_csv("harmful.csv", index=False)
    pd.DataFrame({"prompt": [f"Make {thing}" for thing in THINGS]}).to_csv("safe.csv", index=False)
    for name, kind, column in (("breaking", "harmful", "goal"), ("making", "safe", "prompt")):
        assert main(f"tasks new {name} --from {kind}.csv --prompt-column {column} --kind {kind}".split()) == 0
        settings = Path("tasks") / name / "_generate.yaml"
        settings.write_text(settings.read_text().replace("max_gen_toks: 512", "max_gen_toks: 4"))
    capsys.readouterr()

    def make(name: str) -> Any:
        model = tiny_model(name)
        model.save_pretrained("model")
        for file in tiny_llama_dir.iterdir():
            if "token" in file.name or file.suffix == ".jinja":
                shutil.copy(file, "model")
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=2 * WIDTH, k=WIDTH))
        both_ways = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])  # every vector is the sum of its coordinates
        sae.W_dec.data, sae.W_enc.data = both_ways, both_ways.T.contiguous()
        layers = decoder_layers(model)
        hook = next(path for path, module in model.named_modules() if module is layers)
        sae.cfg.metadata.hook_name = f"{hook}.0"
        sae.save_inference_model("sae")
        return model

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKED)
def test_sails_lora_and_full_are_compared(name: str, made: Callable[..., Any]) -> None:
    base = made(name)
    command = f"compare --methods sails,lora,full {COMPARE} --rank 4 --seeds 2 --learning-rates 1 --out run -q"
    assert main(command.split()) == 0
    board = pd.read_csv("run/leaderboard.csv")
    assert set(board["method"]) == {"base", "sails", "lora", "full"}
    assert board["unscored"].max() == 0 and board["alignment_score"].notna().all()
    ids = torch.tensor([[5, 17, 40, 99]])
    before = base(ids).logits
    (checkpoint, *_) = Path("run/cells/sails").glob("*/checkpoint")
    assert not torch.equal(PeftModel.from_pretrained(base, str(checkpoint))(ids).logits, before)
    (checkpoint, *_) = Path("run/cells/full").glob("*/checkpoint")
    assert not torch.equal(AutoModelForCausalLM.from_pretrained(checkpoint)(ids).logits, before)


def refusal(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """What a command that has to refuse prints."""
    assert main(command.split()) == 2
    printed = capsys.readouterr()
    return printed.out + printed.err


@pytest.mark.parametrize("command", [pytest.param("compare", marks=pytest.mark.slow), "plan", "pairs check"])
def test_mamba_is_refused_by_methods_that_start_from_a_basis(
    made: Callable[..., Any], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    made("mamba")
    told = (
        r"method 'sails' cannot train .*no module of a mamba model can start from a basis: a state-space model has no"
    )
    if command == "pairs check":
        pair = {"model": "./model", "saes": [{"path": "sae"}], "train": "pairs.jsonl", "dtype": "float32"}
        Path("pair.yaml").write_text(yaml.safe_dump(pair))
        found = refusal(capsys, "pairs check pair.yaml")
    else:
        found = refusal(
            capsys, f"{command} --methods sails,lora,full {COMPARE}" + " --out run" * (command == "compare")
        )
    (line,) = [one for one in re.sub(r"\n {2,}", " ", found).splitlines() if "cannot train" in one]
    assert re.search(told, line)
    assert not Path("run").exists()


def test_a_plan_tells_the_modules_of_the_architecture_and_what_they_do(
    made: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    made("gpt2")
    assert main(f"plan --methods sails,lora {COMPARE}".split()) == 0
    told = re.sub(r"\n {2,}", " ", capsys.readouterr().out)
    assert "rank 16 on c_attn (reading the residual stream), attn.c_proj (writing to it), as usual for gpt2" in told


def of_no_table(made: Callable[..., Any]) -> dict[str, Any]:
    """A pair with a model of a type that the table does not have."""
    made("persimmon")
    pair = {"model": "./model", "saes": [{"path": "sae"}], "train": "pairs.jsonl", "dtype": "float32", "rank": 4}
    return {**pair, "tasks": ["breaking", "making"], "judge": "rules", "target_modules": ["query_key_value", "dense"]}


OWN = (
    "architecture: {readers: {mlp.dense_h_to_4h: post_attention_layernorm, "
    "self_attn.query_key_value: input_layernorm}, "
    "writers: {self_attn.dense: null, mlp.dense_4h_to_h: null}}"
)


def test_a_pair_tells_the_modules_of_a_model_that_is_in_no_table(
    made: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = of_no_table(made)
    Path("pair.yaml").write_text(yaml.safe_dump(pair))
    found = refusal(capsys, "pairs check pair.yaml")
    assert "such as 'architecture: {readers: {self_attn.query_key_value: input_layernorm}}', which 'sails-ev" in found
    assert f"architecture: found by what modules do: {OWN}\n" in found
    Path("pair.yaml").write_text(f"{yaml.safe_dump(pair)}{OWN}\n")
    assert main("pairs check pair.yaml".split()) == 0
    told = "target modules: query_key_value (reading the residual stream), dense (writing to it)\n"
    assert told in capsys.readouterr().out
    assert main("pairs show pair.yaml".split()) == 0
    shown = capsys.readouterr().out
    assert "for dense of layer 0 and query_key_value of layer 1" in shown and "mlp.dense_4h_to_h: null" in shown


@pytest.mark.slow
def test_a_model_that_is_in_no_table_is_compared(made: Callable[..., Any]) -> None:
    Path("pair.yaml").write_text(f"{yaml.safe_dump(of_no_table(made))}{OWN}\n")
    command = f"compare --methods sails,lora --pair pair.yaml {STEPS} --seeds 2 --learning-rates 1 --out run -q"
    assert main(command.split()) == 0
    told = json.loads(Path("run/run.json").read_text())["identity"]["training"]["architecture"]
    assert told["writers"] == {"self_attn.dense": None, "mlp.dense_4h_to_h": None}
    assert set(pd.read_csv("run/leaderboard.csv")["method"]) == {"base", "sails", "lora"}


def test_experts_that_are_one_weight_are_refused(made: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    made("mixtral")
    found = refusal(capsys, f"plan --methods lora {COMPARE} --target-modules q_proj,down_proj")
    told = "target module 'down_proj' of MixtralForCausalLM is no module but one weight [4, 32, 48] of several experts"
    assert told in re.sub(r"\n {2,}", " ", found)
    found = refusal(capsys, f"plan --methods lora {COMPARE} --target-modules gate")
    assert "target module 'gate' of MixtralForCausalLM is a MixtralTopKRouter" in re.sub(r"\n {2,}", " ", found)
