"""What every shipped recipe that trains has to keep, whatever it trains: one contract, all recipes."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Trainer

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.paths import bundled
from sails_eval.core.recipe import RANKLESS, PeftType, Recipe, Span, load_recipe
from sails_eval.core.training_settings import Objective
from sails_eval.data.reading import read_examples
from sails_eval.methods.subspace import prepare as loaded
from sails_eval.methods.subspace import saes
from sails_eval.methods.subspace.prepare import changes_base, start_seed
from sails_eval.models.base import Base
from sails_eval.plan import checks
from sails_eval.plan.cost.meta_model import shape_of, to_train, trained_and_all
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.run import stages
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.training import cell as train
from sails_eval.training.batches import CellRun, TokenRow, encode_examples
from sails_eval.training.cell import trainable

QUICK = {"full", "sails"}
"""In every run of the tests; the others take minutes together."""

SHIPPED = [
    recipe for file in sorted(bundled("adapters").glob("[!_]*.yaml")) if (recipe := load_recipe(str(file))).trains
]
OTHERS = [
    Recipe(name=kind, description="", parameters="adapter", peft_type=kind, learning_rate=Span(low=1e-3, high=8e-3))
    for kind in get_args(PeftType)
    if kind not in {recipe.peft_type for recipe in SHIPPED}
]
"""Of every further kind of adapter, the recipe that a user would write: it takes no code."""

RECIPES = [
    pytest.param(recipe, id=recipe.name, marks=() if recipe.name in QUICK else pytest.mark.slow)
    for recipe in (*SHIPPED, *OTHERS)
]
MUTATE_BASE = {"corda", "olora", "pissa"}
"""What starts by taking the adapter's start away from the base weights: not the same to the last bit at step 0."""

ROTATE = {"oft"}
"""What multiplies the weights by a matrix that is the identity at step 0, up to rounding."""

BUDGET = ("tokens", "steps", "examples")
"""Of train.json: what is the same for all recipes with an objective."""

ROUNDING = 3e-4
"""Of logits, where the same is computed in another way."""


@pytest.fixture(scope="module")
def pair(testbed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The testbed, a few steps long, with few contrast texts and a planted subspace."""
    folder = tmp_path_factory.mktemp("contract")
    assert isinstance(testbed_pair.contrast, Path)
    few = testbed_pair.contrast.read_text().splitlines()[:8]
    (folder / "contrast.jsonl").write_text("\n".join(few))
    planted = torch.linalg.qr(torch.randn(128, 3, generator=torch.Generator().manual_seed(0))).Q
    save_file({"layers.1": planted.contiguous()}, folder / "planted.safetensors")
    own = {"contrast": folder / "contrast.jsonl", "planted": folder / "planted.safetensors", "tokens": 600}
    return testbed_pair.model_copy(update={**own, "batch_size": 4})


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
        patch.setattr(saes, "load_sae", lru_cache(saes.load_sae))
        yield


@dataclass(frozen=True)
class Trained:
    """A cell that was trained: its train.json, hashes of what was saved (the last first), and what the trainer read."""

    told: dict[str, Any]
    sha256: list[str]
    read: list[list[int]] = field(default_factory=list)

    @property
    def budget(self) -> list[int]:
        return [self.told[key] for key in BUDGET]


def trained(pair: Pair, recipe: Recipe, run: Path, *, checkpoints: int = 1) -> Trained:
    """Train a cell as a comparison does, at the span's highest rate."""
    if recipe.init:
        stages.find_subspace(stages.StartJob(pair, recipe, (start_seed(pair, recipe, 0),), RunFolder(run)))
    rate, seed = pair.rate_scale(recipe.objective) * recipe.span.high, start_seed(pair, recipe, 0)
    cell, read = Cell(recipe, rate, 0, "0" * 16, checkpoints=checkpoints, start_seed=seed), list[list[int]]()
    step = Trainer.training_step

    def noting(trainer: Any, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        for ids, mask in zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
            read.append([token for token, real in zip(ids, mask, strict=True) if real])
        return step(trainer, model, inputs, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", noting)
        stages.train(stages.TrainJob(pair, cell, ModelFolder(run / "cell"), RunFolder(run)))
    saved = sorted((run / "cell").rglob("*.safetensors"), key=step_of, reverse=True)
    told = json.loads((run / "cell" / "train.json").read_text())
    return Trained(told, [hashlib.sha256(weights.read_bytes()).hexdigest() for weights in saved], read)


def step_of(weights: Path) -> int:
    """The step after which they were saved; of a cell that is saved at its end only, any number."""
    return int(weights.parent.parent.name.partition("-")[2] or 0)


def killed(pair: Pair, recipe: Recipe, run: Path) -> None:
    """Train a cell with two checkpoints, but be killed before the second; what an older try left lies there, too."""
    left = [train.save_trained]

    def save_or_die(*args: Any, **options: Any) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "save_trained", save_or_die)
        with pytest.raises(KeyboardInterrupt):
            trained(pair, recipe, run, checkpoints=2)
    assert not (run / "cell" / "train.json").exists()
    (partial,) = (run / "cell").iterdir()
    (first,) = partial.iterdir()
    shutil.copytree(first, partial / "99")


@torch.no_grad()
def logits(model: Any, rows: list[TokenRow]) -> torch.Tensor:
    """Of what comes next at every token of some requests with their answers: [tokens, vocabulary]."""
    return torch.cat([model(torch.tensor([row.input_ids])).logits[0] for row in rows[:6]]).clone()


def reloaded(pair: Pair, recipe: Recipe, checkpoint: Path) -> Any:
    """The saved model, loaded by the stock libraries."""
    options: Any = {"attn_implementation": pair.attn_implementation}
    if recipe.parameters != "adapter":
        return AutoModelForCausalLM.from_pretrained(checkpoint, **options).eval()
    base = AutoModelForCausalLM.from_pretrained(pair.model, **options)
    return PeftModel.from_pretrained(base, str(checkpoint)).eval()


@pytest.fixture(scope="module")
def plain(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Objective], Trained]:
    """The plain adapter that learns from an objective, as every recipe with it has the same to learn from."""

    @lru_cache
    def made(objective: Objective) -> Trained:
        return trained(pair, load_recipe({"sft": "lora", "dpo": "dpo"}[objective]), tmp_path_factory.mktemp(objective))

    return made


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_keeps_the_contract(
    pair: Pair,
    testbed_base: Base,
    rows: list[TokenRow],
    plain: Callable[[Objective], Trained],
    tmp_path: Path,
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, after, save = logits(testbed_base.model, rows), list[torch.Tensor](), train.save_trained

    def also_asked(model: Any, *args: Any, **options: Any) -> None:
        after.append(logits(model.eval(), rows))
        save(model, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(train, "save_trained", also_asked)
        made = trained(pair, recipe, tmp_path / "run")

    # At step 0 it says what the base says.
    found = RunFolder(tmp_path / "run").subspace(recipe.name, start_seed(pair, recipe, 0))
    state = load_file(found) if recipe.init else None
    with trainable(testbed_base, pair, recipe, CellRun(1e-3, 0, list(range(8)), state)) as model:
        start = logits(model.eval(), rows)
    assert (recipe.name in MUTATE_BASE) == (recipe.parameters == "adapter" and changes_base(pair, recipe))
    if recipe.name in MUTATE_BASE | ROTATE:
        assert (start - before).abs().max() < ROUNDING
    else:
        assert torch.equal(start, before)

    # It reads what all read, once, and as much as all; it trains as many parameters as foretold.
    assert made.budget == plain(recipe.objective).budget and made.read == plain(recipe.objective).read
    tokens = sum(map(len, made.read))
    assert tokens == made.told["tokens"] and pair.tokens <= tokens < pair.tokens + 4 * max(map(len, made.read))
    assert made.told["trainable_params"] == trained_and_all(to_train(shape_of(pair), pair, recipe))[0]
    assert made.told["total_params"] == sum(weight.numel() for weight in testbed_base.model.parameters())

    # It answers differently afterwards, the stock libraries load what it saved, and the base is as it was.
    (final,) = after
    assert (final.argmax(-1) != before.argmax(-1)).any()
    again = logits(reloaded(pair, recipe, ModelFolder(tmp_path / "run" / "cell").checkpoint), rows)
    assert (again - final).abs().max() < ROUNDING
    assert torch.equal(logits(testbed_base.model, rows), before)

    # The same bytes again after a kill, whether it is saved on the way or not.
    killed(pair, recipe, tmp_path / "again")
    last, first = trained(pair, recipe, tmp_path / "again", checkpoints=2).sha256
    assert [last] == made.sha256 != [first]


def test_which_adapters_have_the_pairs_rank(pair: Pair) -> None:
    for recipe in OTHERS:
        twice = recipe.model_copy(update={"rank_factor": 2.0})
        n, more = (trained_and_all(to_train(shape_of(pair), pair, one))[0] for one in (recipe, twice))
        assert (more > n) == (recipe.peft_type not in RANKLESS)


def test_what_a_kind_draws_is_drawn_anew_for_every_seed(pair: Pair, testbed_base: Base, rows: list[TokenRow]) -> None:
    for recipe in (load_recipe("vera"), *(one for one in OTHERS if one.name == "randlora")):
        drawn = []
        for seed in (0, 0, 1):
            with trainable(testbed_base, pair, recipe, CellRun(1e-3, seed, list(range(8)))) as model:
                drawn.append(torch.cat([one.flatten() for name, one in model.named_buffers() if recipe.name in name]))
        assert len(drawn[0]) and torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_there_are_no_more_checkpoints_than_steps(
    pair: Pair, rows: list[TokenRow], testbed_base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "base_of", lambda pair: testbed_base)
    monkeypatch.setattr(checks, "training_rows", lambda pair: rows)
    short = pair.model_copy(update={"tokens": 200})
    one = SubRun(short, recipes=(load_recipe("lora"),), seeds=(0,), learning_rates=1, checkpoints=2)
    assert checks.check_training(one).layouts[0].steps == 2
    with pytest.raises(
        UserError, match="--checkpoints 3: sft trains for only 2 steps with seed 0; give --checkpoints 2"
    ):
        checks.check_training(replace(one, checkpoints=3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in get_args(PeftType) if kind != "adalora"])
def test_every_kind_of_adapter_can_learn_from_preferences(
    pair: Pair, plain: Callable[[Objective], Trained], tmp_path: Path, kind: PeftType
) -> None:
    like = next(one for one in (*SHIPPED, *OTHERS) if one.peft_type == kind and not one.init)
    recipe = like.model_copy(update={"objective": "dpo", "peft": {}})
    made = trained(pair, recipe, tmp_path / "run")
    assert made.budget == plain("dpo").budget and made.read == plain("dpo").read
    assert made.told["losses"][0] == pytest.approx(math.log(2), abs=1e-4)  # the reference is the model at step 0


@pytest.mark.slow
def test_frozen_bases_stay_frozen_whatever_the_objective(pair: Pair, tmp_path: Path) -> None:
    recipe = load_recipe("random-frozen").model_copy(update={"objective": "dpo"})
    told = trained(pair, recipe, tmp_path / "run").told
    assert told["trainable_params"] == trained_and_all(to_train(shape_of(pair), pair, recipe))[0]
