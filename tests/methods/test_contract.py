"""What every shipped recipe that trains has to keep, whatever it trains: one contract, all recipes."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sails_eval import checks, loaded, saes, stages, train
from sails_eval.config import Objective, Pair, Recipe, load_recipe
from sails_eval.data import read_examples
from sails_eval.errors import UserError
from sails_eval.models import Base
from sails_eval.paths import bundled
from sails_eval.plan import Cell, Setup
from sails_eval.shapes import shape_of, to_train, trained_and_all
from sails_eval.train import CellRun, TokenRow, encode_examples, trainable

QUICK = {"full", "lora", "pissa", "sails"}
"""In every run of the tests; the others take a minute together."""

RECIPES = [
    pytest.param(recipe.name, marks=() if recipe.name in QUICK else pytest.mark.slow)
    for file in sorted(bundled("adapters").glob("*.yaml"))
    if (recipe := load_recipe(str(file))).trains
]
MUTATE_BASE = {"corda", "olora", "pissa"}
"""What starts by taking the adapter's start away from the base weights: not the same to the last bit at step 0."""

BUDGET = ("tokens", "steps", "examples")
"""Of train.json: what is the same for all recipes with an objective."""

TOLERANCE = 1e-3
"""Of logits, where rounding differs: the adapter of a changed base is saved as what it adds to the bare one."""


@pytest.fixture(scope="module")
def pair(testbed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The testbed, two steps long, with few contrast texts and a planted subspace."""
    folder = tmp_path_factory.mktemp("contract")
    assert testbed_pair.contrast
    few = testbed_pair.contrast.read_text().splitlines()[:8]
    (folder / "contrast.jsonl").write_text("\n".join(few))
    planted = torch.linalg.qr(torch.randn(128, 3, generator=torch.Generator().manual_seed(0))).Q
    save_file({"layers.1": planted.contiguous()}, folder / "planted.safetensors")
    own = {"contrast": folder / "contrast.jsonl", "planted": folder / "planted.safetensors", "tokens": 100}
    return testbed_pair.model_copy(update=own)


@pytest.fixture(scope="module")
def rows(pair: Pair, testbed_base: Base) -> list[TokenRow]:
    assert isinstance(pair.train, Path)
    return encode_examples(testbed_base.tokenizer, read_examples(pair.train).examples[::30], pair.max_length)


@pytest.fixture(scope="module", autouse=True)
def _loaded_once(rows: list[TokenRow], testbed_base: Base) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (loaded, stages):
            patch.setattr(module, "base_of", lambda pair: testbed_base)
        patch.setattr(stages, "training_rows", lambda pair: rows)
        patch.setattr(saes, "_load", lru_cache(saes._load))
        yield


def rate_of(pair: Pair, recipe: Recipe) -> float:
    return pair.rate_scale(recipe.objective) * (recipe.span.low * recipe.span.high) ** 0.5


def trained(pair: Pair, recipe: Recipe, run: Path, *, checkpoints: int = 1) -> dict[str, Any]:
    """Train a cell as a comparison does; what its train.json says, and hashes of what it saved, the last one first."""
    if recipe.init:
        stages.find_subspace((pair, recipe, run))
    cell = Cell(recipe, rate_of(pair, recipe), 0, "0" * 16, checkpoints=checkpoints)
    stages.train(stages.TrainJob(pair, cell, run / "cell", run))
    saved = sorted((run / "cell").rglob("*.safetensors"), reverse=True)
    told: dict[str, Any] = json.loads((run / "cell" / "train.json").read_text())
    return told | {"sha256": [hashlib.sha256(weights.read_bytes()).hexdigest() for weights in saved]}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(torch.tensor([[2, 10, 11, 12, 13, 14]])).logits.clone()


def reloaded(pair: Pair, recipe: Recipe, checkpoint: Path) -> torch.Tensor:
    """What the saved model says, loaded by the stock libraries."""
    options: Any = {"attn_implementation": pair.attn_implementation}
    if recipe.parameters != "adapter":
        return logits(AutoModelForCausalLM.from_pretrained(checkpoint, **options).eval())
    base = AutoModelForCausalLM.from_pretrained(pair.model, **options)
    return logits(PeftModel.from_pretrained(base, str(checkpoint)).eval())


@pytest.fixture(scope="module")
def budget(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objective], list[int]]:
    """What plain LoRA takes with an objective."""

    @lru_cache
    def taken(objective: Objective) -> list[int]:
        told = trained(pair, load_recipe({"sft": "lora", "dpo": "dpo"}[objective]), tmp_path_factory.mktemp(objective))
        return [told[key] for key in BUDGET]

    return taken


def killed(pair: Pair, recipe: Recipe, run: Path, patch: pytest.MonkeyPatch, *, checkpoints: int) -> None:
    """Train a cell, but be killed when the last of its checkpoints is to be saved."""
    save = train.save_trained
    left = [save] * (checkpoints - 1)

    def save_or_die(*args: Any, **options: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()(*args, **options)

    patch.setattr(train, "save_trained", save_or_die)
    with pytest.raises(KeyboardInterrupt):
        trained(pair, recipe, run, checkpoints=checkpoints)
    assert list((run / "cell").rglob("*.safetensors")) and not (run / "cell" / "train.json").exists()
    patch.setattr(train, "save_trained", save)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_keeps_the_contract(
    pair: Pair,
    testbed_base: Base,
    budget: Callable[[Objective], list[int]],
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, before = load_recipe(name), logits(testbed_base.model)
    seen: dict[str, torch.Tensor] = {}
    save = train.save_trained

    def also_asked(model: Any, *args: Any, **options: Any) -> None:
        seen["after"] = logits(model.eval())
        save(model, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_trained", also_asked)
        told = trained(pair, recipe, tmp_path / "run")
    state = load_file(stages.subspace_path(tmp_path / "run", recipe)) if recipe.init else None
    with trainable(testbed_base, pair, recipe, CellRun(1e-3, 0, list(range(8)), state)) as model:
        start = logits(model.eval())
    if name in MUTATE_BASE:
        assert torch.allclose(start, before, atol=TOLERANCE)
    else:
        assert torch.equal(start, before)
    assert told["trainable_params"] == trained_and_all(to_train(shape_of(pair), pair, recipe))[0]  # as foretold
    assert [told[key] for key in BUDGET] == budget(recipe.objective)
    assert (seen["after"] - before).abs().max() > TOLERANCE
    again = reloaded(pair, recipe, tmp_path / "run" / "cell" / stages.CHECKPOINT)
    assert torch.allclose(again, seen["after"], atol=TOLERANCE)

    with monkeypatch.context() as patch:
        killed(pair, recipe, tmp_path / "again", patch, checkpoints=2)
    last, first = trained(pair, recipe, tmp_path / "again", checkpoints=2)["sha256"]
    assert [last] == told["sha256"] != [first]  # the same bytes again, after a kill, and if saved on the way or not
    assert torch.equal(logits(testbed_base.model), before)


def test_there_are_no_more_checkpoints_than_steps(
    pair: Pair, rows: list[TokenRow], testbed_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "base_of", lambda pair: testbed_base)
    monkeypatch.setattr(checks, "training_rows", lambda pair: rows)
    setup = Setup(pair, (), {}, (load_recipe("lora"),), seeds=1, learning_rates=1, checkpoints=2)
    assert checks.check_training(setup).layouts[0].steps == 2
    with pytest.raises(UserError, match="--checkpoints 3: sft takes 2 steps with seed 0; give --checkpoints 2"):
        checks.check_training(replace(setup, checkpoints=3))


@pytest.mark.slow
def test_frozen_bases_stay_frozen_whatever_the_objective(pair: Pair, tmp_path: Path) -> None:
    recipe = load_recipe("random-frozen").model_copy(update={"objective": "dpo"})
    told = trained(pair, recipe, tmp_path / "run")
    assert told["trainable_params"] == trained_and_all(to_train(shape_of(pair), pair, recipe))[0]
