"""The protocol `confirm` end to end, on five organisms: the testbed's weights, each with a little noise of its own."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from sails_eval.boards.table import read_rows
from sails_eval.cli import main
from sails_eval.core.paths import PACKAGE
from sails_eval.plan.protocol import Protocol

ORGANISMS = ("one", "two", "three", "four", "five")


@pytest.mark.slow
def test_a_confirmation_on_five_organisms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ORGANISMS:
        shutil.copytree(PACKAGE / "testbed" / "weights" / "testbed" / "base", name)
        weights = load_file(f"{name}/model.safetensors")
        noise = torch.Generator().manual_seed(ORGANISMS.index(name))
        last = max(weights)
        weights[last] = weights[last] + 1e-4 * torch.randn(weights[last].shape, generator=noise)
        save_file(weights, f"{name}/model.safetensors", metadata={"format": "pt"})
        Path(f"{name}.yaml").write_text(f"like: testbed\nmodel: ./{name}\nlearning_rate_scale: {{sft: 90}}\n")
    asked = (
        f"compare --protocol confirm --pair {','.join(f'{name}.yaml' for name in ORGANISMS)} --methods sails,lora "
        "--tokens 4000 --seeds 2 --tuning-seeds 1 --learning-rates 2 --limit 8 --jobs 2 -q --out run "
        "--tasks testbed_harmful_unseen,testbed_safe,testbed_facts"
    ).split()
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "Exploratory" not in told and "Fewer than" not in told
    run = Path("run")
    protocol, board = Protocol.read(run / "protocol.yaml"), read_rows(run / "leaderboard.csv")
    assert {row["protocol"] for row in board} == {protocol.fingerprint}
    assert {row["rank"] is None for row in board} == {False}
    [sails] = [row for row in board if row["method"] == "sails"]
    assert "sails - lora, refusal: " in sails["contrasts"] + "".join(row["contrasts"] for row in board)
    results = {name: pd.read_csv(run / name / "results.csv") for name in ORGANISMS}
    for place, name in enumerate(ORGANISMS):
        of_split = results[name].groupby("split")["seed"].unique()
        test, tuning = protocol.test_seeds[name], protocol.tuning_seeds[name]
        assert test[0] - protocol.test_seeds[ORGANISMS[0]][0] == 1000 * place
        assert {*map(float, test)} <= set(of_split["test"])
        assert {*map(float, tuning)} <= set(of_split["validation"]) and not {*test} & set(of_split["validation"])

    before = {path: path.read_bytes() for path in run.rglob("*.csv") if path.name != "budget.csv"}
    shutil.rmtree(next((run / "three" / "cells" / "lora").glob(f"*seed-{protocol.test_seeds['three'][1]}*")))
    assert main(asked) == 0
    assert {path: path.read_bytes() for path in before} == before  # what was lost was made again, to the byte
    assert main(["power", "--difference", "0.05", "--from", "run"]) == 0
    assert "between organisms: " in capsys.readouterr().out
