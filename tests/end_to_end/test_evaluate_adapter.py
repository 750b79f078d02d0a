"""An adapter that changes nothing is evaluated: by a judge and an engine of one's own, and with a warning."""

import csv
import shutil
from pathlib import Path
from typing import get_args

import pytest
from peft import get_peft_model

from sails_eval.cli import main
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.records import read_completions
from sails_eval.judges.base import JudgedKind
from sails_eval.models.adapters import adapter_config
from sails_eval.models.base import Base


@pytest.fixture(scope="module")
def inert(testbed_base: Base, testbed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that changes nothing: fresh from PEFT."""
    folder = tmp_path_factory.mktemp("inert") / "inert"
    model = get_peft_model(testbed_base.model, adapter_config(testbed_pair, load_recipe("lora")))
    model.save_pretrained(str(folder))
    model.unload()
    return folder


@pytest.mark.slow
def test_a_judge_and_an_engine_of_ones_own_evaluate(example_package: Path, inert: Path, tmp_path: Path) -> None:
    given = "--pair testbed --judge cascade:grammar,example_judge --engine example_engine --limit 2 -q"
    given += " --tasks testbed_harmful_unseen,testbed_safe"
    assert main(["evaluate", str(inert), *given.split(), "--out", str(tmp_path / "run")]) == 0
    (answers,) = (tmp_path / "run/answers").rglob("completions/test/testbed_safe.jsonl")
    assert all(answer.response.startswith("SURE , USE THE ") for answer in read_completions(answers))
    [row] = csv.DictReader((tmp_path / "run/leaderboard.csv").read_text().splitlines())
    assert row["judge"] == "cascade(grammar, example_judge:sorry)"
    told = [
        f"grammar decided 2 of 2 answers to {kind} requests, example_judge:sorry was not asked"
        for kind in get_args(JudgedKind)
    ]
    assert row["judge_agreement"].endswith(f"; {', '.join(told)}")


@pytest.mark.parametrize(
    "engine", [pytest.param("hf", marks=pytest.mark.slow), pytest.param("vllm", marks=pytest.mark.vllm)]
)
def test_evaluate_warns_of_an_adapter_that_answers_like_the_base(engine: str, inert: Path, tmp_path: Path) -> None:
    given = f"--pair testbed --judge grammar --tasks testbed_harmful_unseen,testbed_safe --limit 4 -q --engine {engine}"
    command = ["evaluate", str(inert), *given.split(), "--out", str(tmp_path / "run")]
    for again in (False, True) if engine == "hf" else (False,):
        if again:  # the base's answers are there already
            shutil.rmtree(tmp_path / "run/answers")
        assert main(command) == 0
        assert "are identical to the base model's" in (tmp_path / "run/leaderboard.md").read_text()
