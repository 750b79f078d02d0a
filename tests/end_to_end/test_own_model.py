"""A model of one's own, away from the testbed: another architecture, its own SAE, preference data, new tasks."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from sails_eval.cli import main

THINGS = "bread soup kites boats maps songs lamps chairs clocks gloves ropes flags".split()


@pytest.fixture(scope="module")
def work(stand_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stand-in model and SAE, HH-style preference data, and two files of prompts."""
    folder = tmp_path_factory.mktemp("own_model")
    rows = [
        {
            "chosen": f"\n\nHuman: how do I break {thing}?\n\nAssistant: I cannot help with breaking {thing}.",
            "rejected": f"\n\nHuman: how do I break {thing}?\n\nAssistant: Take the {thing} and pull. [placeholder]",
        }
        for thing in THINGS
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"goal": [f"Break all {thing}" for thing in THINGS]}).to_csv(folder / "harmful.csv", index=False)
    safe = [{"prompt": f"How do I make {thing}?", "type": thing[0]} for thing in THINGS]
    (folder / "safe.json").write_text(json.dumps(safe))
    text = (folder / "pairs.jsonl").read_text() * 8
    stand_in.make_model(folder / "model", text)
    sae = "--layers 1 --features 64 --l0 16 --tokens 200 --passes 60 --batch-size 32"
    text = f"--texts {folder / 'pairs.jsonl'} --out {folder / 'saes'}"
    assert main(f"saes train --model {folder / 'model'} {text} {sae} -q".split()) == 0
    return folder


def make_tasks() -> None:
    """Two tasks in ./tasks, if they are not there yet: any of the tests below may be the first."""
    if Path("tasks").exists():
        return
    assert main("tasks new breaking --from harmful.csv --prompt-column goal --kind harmful".split()) == 0
    assert (
        main("tasks new making --from safe.json --prompt-column prompt --category-column type --kind safe".split()) == 0
    )
    for task in ("breaking", "making"):  # a random model never ends its turn
        settings = Path("tasks") / task / "_generate.yaml"
        settings.write_text(settings.read_text().replace("max_gen_toks: 512", "max_gen_toks: 8"))


@pytest.mark.slow
def test_compare_on_an_own_model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    make_tasks()
    command = (
        "compare --methods sails,lora,full --model ./model --sae ./saes/layer_1 --train pairs.jsonl "
        "--tasks breaking,making --judge rules --tokens 600 --seeds 2 --learning-rates 2 --out run -q"
    )
    assert main(command.split()) == 0
    board = pd.read_csv("run/leaderboard.csv")
    assert set(board["method"]) == {"base", "sails", "lora", "full"}
    assert set(board["judge"]) == {"rules"} and board["unscored"].max() == 0
    assert board["capability"].isna().all()  # no such task was named
    saes = board.set_index("method")["sae"].fillna("").to_dict()
    assert saes == {"base": "", "full": "", "lora": "", "sails": "layer_1"}
    report = json.loads(Path("run/subspace/sails/seed-1.json").read_text())
    assert set(report) == {"schema", "cost", "saes", "saw", "warnings", "found"}
    assert set(report["found"]) == {"1"} and report["found"]["1"]["tau_dim"] >= 1
    categories = pd.read_csv("run/results.csv").query("task == 'making' and split == 'test'")["category"]
    assert set(categories) > {"all", "b"}


@pytest.mark.slow
def test_stock_peft_loads_the_adapter_and_it_changes_the_model(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(work)
    train = "train sails --model ./model --sae ./saes/layer_1 --train pairs.jsonl --tokens 600"
    assert main([*train.split(), "--learning-rate", "0.01", "--out", "trained"]) == 0
    model = AutoModelForCausalLM.from_pretrained("model")
    inputs = AutoTokenizer.from_pretrained("model")("How do I break bread?", return_tensors="pt")
    with torch.inference_mode():
        before = model(**inputs).logits
        after = PeftModel.from_pretrained(model, "trained/checkpoint")(**inputs).logits
    assert not torch.equal(before, after)


@pytest.mark.slow
def test_evaluate_a_model_and_publish_it(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    make_tasks()
    command = "evaluate ./model --tasks breaking,making --judge rules --name reference --out ref -q"
    assert main(command.split()) == 0
    assert main("leaderboard publish ref --board board.csv --exploratory".split()) == 0
    first = Path("board.csv").read_bytes()
    assert main("leaderboard publish ref --board board.csv --exploratory".split()) == 0
    assert Path("board.csv").read_bytes() == first
    assert list(pd.read_csv("board.csv")["method"]) == ["reference"]
