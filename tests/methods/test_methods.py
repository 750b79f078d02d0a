"""What every initialisation that a shipped recipe names has to keep, under every setting."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sails_eval.core.errors import UserError
from sails_eval.core.files import write_jsonl
from sails_eval.core.pair import Pair
from sails_eval.core.paths import bundled
from sails_eval.core.recipe import Recipe, load_recipe
from sails_eval.methods import FromBasis, Material, adapted_modules, load_initialisation
from sails_eval.methods.subspace import prepare as loaded
from sails_eval.methods.subspace import saes
from sails_eval.methods.subspace.activations import contrast_means
from sails_eval.methods.subspace.basis import LORA_NORM
from sails_eval.methods.subspace.settings import ContrastSettings
from sails_eval.models.base import Base
from sails_eval.run import stages
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.training.batches import CellRun
from sails_eval.training.cell import trainable
from sails_eval.training.contrasted import contrasted

METHODS = sorted(
    recipe.name
    for file in bundled("adapters").glob("[!_]*.yaml")
    if isinstance(load_initialisation(recipe := load_recipe(str(file))), FromBasis)
    and recipe.settings.get("basis") != "frozen"
)
"""Those that place a basis and train all of it; what the others have to keep, too, is in test_contract.py."""
PLACED: list[dict[str, Any]] = [
    {"fill": "none"},
    {"uncovered": "nearest_below"},
    {"uncovered": "skip"},
    {"side": "read"},
    {"side": "write"},
    {"scale": "unit"},
    {"basis": "frozen"},
    {"basis": "frozen", "fill": "none"},
    {"gains": "divided"},
]
SAILS: list[dict[str, Any]] = [
    {"contrast": "requests", "positions": "prompt_last"},
    {"contrast": "requests", "positions": "all", "score": "t"},
    {"positions": "first4"},
    {"positions": "all", "score": "t"},
    {"score": "relative"},
    {"score": "negative", "k": 3},
    {"centred": True, "variance": 0.8},
    {"k": "rank", "weights": "none"},
    {"readers": "encoder"},
]
CASES = [
    *((method, {}) for method in METHODS),
    *(("oracle", settings) for settings in PLACED),
    ("random-orthonormal", {"side": "read", "gains": "divided"}),
    *(("sails", settings) for settings in SAILS),
    ("difference-in-means", {"contrast": "requests", "positions": "all"}),
    ("activation-svd", {"centred": True}),
    ("activation-svd-r", {"contrast": "requests", "positions": "prompt_last"}),
]


@pytest.fixture(scope="module")
def pair(testbed_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The testbed with few contrast texts, a planted subspace, requests, and further sets of SAEs."""
    folder = tmp_path_factory.mktemp("pair")
    assert isinstance(testbed_pair.contrast, Path) and isinstance(testbed_pair.train, Path)
    few = testbed_pair.contrast.read_text().splitlines()[:6]
    (folder / "contrast.jsonl").write_text("\n".join(few))
    asked = [json.loads(line)["prompt"] for line in testbed_pair.train.read_text().splitlines()[:6]]
    write_jsonl(folder / "requests.jsonl", [{"prompt": text, "harmful": i % 2 == 0} for i, text in enumerate(asked)])
    planted = torch.linalg.qr(torch.randn(128, 3, generator=torch.Generator().manual_seed(0))).Q
    save_file({"layers.1": planted.contiguous()}, folder / "planted.safetensors")
    return testbed_pair.model_copy(
        update={
            "contrast": folder / "contrast.jsonl",
            "contrast_examples": "all",
            "requests": folder / "requests.jsonl",
            "planted": folder / "planted.safetensors",
            "sae_sets": {
                "undertrained": testbed_pair.saes[1:3],
                "narrow": testbed_pair.saes[1:2],
                "one": testbed_pair.saes[1:2],
            },
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _loaded_once(testbed_base: Base) -> Iterator[None]:
    """The stages' base model is the one that other tests have loaded already; each SAE is loaded once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaded, "base_of", lambda pair: testbed_base)
        patch.setattr(saes, "load_sae", lru_cache(saes.load_sae))
        yield


def recipe_of(method: str, settings: dict[str, Any]) -> Recipe:
    recipe = load_recipe(method)
    return recipe.model_copy(update={"settings": {**recipe.settings, **settings}})


def found(pair: Pair, recipe: Recipe, run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    folder = RunFolder(run)
    stages.find_subspace(stages.StartJob(pair, recipe, (None,), folder))
    return load_file(folder.subspace(recipe.name)), folder.subspace_report(recipe.name).found


@contextmanager
def at_step_0(base: Base, pair: Pair, recipe: Recipe, state: Any, *, seed: int = 0) -> Iterator[Any]:
    with trainable(base, pair, recipe, CellRun(1e-3, seed, [], state)) as model:
        yield model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.tensor([[2, 10, 11, 12]])).logits.clone()
    return found


def lora_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}


@pytest.fixture(scope="module")
def lora(pair: Pair, testbed_base: Base) -> dict[str, torch.Tensor]:
    """The weights that PEFT starts with."""
    with at_step_0(testbed_base, pair, load_recipe("lora"), None) as model:
        return lora_weights(model)


@pytest.mark.parametrize(("method", "settings"), CASES, ids=str)
def test_an_initialisation_keeps_its_contract(
    pair: Pair, testbed_base: Base, lora: dict[str, torch.Tensor], tmp_path: Path, method: str, settings: dict[str, Any]
) -> None:
    recipe, before = recipe_of(method, settings), logits(testbed_base.model)
    state, report = found(pair, recipe, tmp_path / "one")
    assert {f"layers.{layer}" for layer in report} == {name.removesuffix(".read") for name in state}
    assert "recovery" in report["1"]
    n = sum(weight.numel() for weight in lora.values())
    with at_step_0(testbed_base, pair, recipe, state) as model:
        start = lora_weights(model)
        assert torch.equal(logits(model), before)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert trained < n if "skip" in settings.values() or "frozen" in settings.values() else trained == n
    assert {name: weight.shape for name, weight in start.items()} == {name: w.shape for name, w in lora.items()}
    assert any(not torch.equal(start[name], lora[name]) for name in start)


@pytest.mark.parametrize("method", ["sails", "activation-svd", "random-orthonormal"])
def test_an_initialisation_is_the_same_again(pair: Pair, testbed_base: Base, tmp_path: Path, method: str) -> None:
    recipe, starts = load_recipe(method), []
    for run in ("one", "two"):
        state, _ = found(pair, recipe, tmp_path / run)
        with at_step_0(testbed_base, pair, recipe, state) as model:
            starts.append(lora_weights(model))
    assert all(torch.equal(weight, starts[1][name]) for name, weight in starts[0].items())


def test_stock_peft_loads_what_was_initialised(pair: Pair, testbed_base: Base, tmp_path: Path) -> None:
    recipe = recipe_of("oracle", {"scale": "unit", "basis": "frozen", "uncovered": "skip"})
    state, _ = found(pair, recipe, tmp_path)
    with at_step_0(testbed_base, pair, recipe, state) as model:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 if parameter.requires_grad else 0
        ours = logits(model)
        model.save_pretrained(str(tmp_path / "adapter"))
    stock = AutoModelForCausalLM.from_pretrained(pair.model, attn_implementation="eager").eval()
    loaded = PeftModel.from_pretrained(stock, str(tmp_path / "adapter")).eval()
    assert torch.equal(logits(loaded), ours) and not torch.allclose(ours, logits(testbed_base.model), atol=1e-3)


# --- each of them ------------------------------------------------------------------------------------------------


def test_the_oracle_recovers_all_that_was_planted(pair: Pair, tmp_path: Path) -> None:
    state, report = found(pair, load_recipe("oracle"), tmp_path)
    assert torch.equal(state["layers.1"], load_file(pair.planted)["layers.1"])
    assert report["1"] == {"used_dim": 3, "filled": 1, "recovery": pytest.approx(1 - 3 / 128, abs=1e-5)} | {
        "recovery_filled": pytest.approx(1 - 4 / 128, abs=1e-5),
        "sin_theta": pytest.approx(0, abs=1e-3),
    }


@pytest.mark.parametrize(("columns", "recovered"), [(0, 0.0), (1, 0.33), (3, 1.0)])
def test_the_oracle_can_be_given_less_than_all(pair: Pair, tmp_path: Path, columns: int, recovered: float) -> None:
    recipe = recipe_of("oracle", {"columns": columns})
    state, report = found(pair, recipe, tmp_path)
    assert state["layers.1"].shape[1] == report["1"]["used_dim"] == columns
    assert report["1"]["filled"] == pair.rank - columns
    assert report["1"]["recovery_filled"] == pytest.approx(recovered, abs=0.07)


def test_random_bases_are_drawn_by_the_seed_and_shared_by_the_modules_of_a_layer(
    pair: Pair, testbed_base: Base, tmp_path: Path
) -> None:
    recipe = load_recipe("random-orthonormal")
    state, report = found(pair, recipe, tmp_path)
    assert report["1"]["recovery"] is None and report["1"]["recovery_filled"] == pytest.approx(0, abs=1e-6)
    drawn = []
    for seed in (0, 1):
        with at_step_0(testbed_base, pair, recipe, state, seed=seed) as model:
            drawn.append(lora_weights(model))
    name = "base_model.model.model.layers.{}.self_attn.{}.default.weight"
    for weights in drawn:
        o_proj = name.format(1, "o_proj.lora_B")
        basis = weights[o_proj] / LORA_NORM
        assert torch.allclose(basis.T @ basis, torch.eye(pair.rank), atol=1e-5)
        for module in ("q_proj", "v_proj"):
            assert torch.equal(weights[name.format(2, f"{module}.lora_A")], weights[o_proj].T)
    one, other = (weights[name.format(1, "o_proj.lora_B")] for weights in drawn)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(("scale", "factor"), [("matched", 1.0), ("unit", 3**0.5)])
def test_the_first_step_moves_the_weights_as_far_as_plain_loras_does(
    pair: Pair, testbed_base: Base, tmp_path: Path, scale: str, factor: float
) -> None:
    ids = torch.tensor([[2, *range(10, 40)]])
    recipe, moved = recipe_of("random-orthonormal", {"scale": scale}), []
    state, _ = found(pair, recipe, tmp_path)
    for start, given in ((load_recipe("lora"), None), (recipe, state)):
        with at_step_0(testbed_base, pair, start, given) as model:
            step = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=0)
            model(ids, labels=ids).loss.backward()
            step.step()
            moved.append([m.get_delta_weight("default").norm().item() for _, m in adapted_modules(model)])
    ratios = sorted(one / other for one, other in zip(moved[1], moved[0], strict=True))
    assert ratios[len(ratios) // 2] == pytest.approx(factor, rel=0.12)


def test_the_difference_in_means_and_the_first_singular_vector_of_one_pair_are_the_same(
    pair: Pair, tmp_path: Path
) -> None:
    assert isinstance(pair.contrast, Path)
    one = tmp_path / "one.jsonl"
    one.write_text(pair.contrast.read_text().splitlines()[0])
    alone = pair.model_copy(update={"contrast": one})
    (means, said), (svd, _) = (
        found(alone, load_recipe(m), tmp_path) for m in ("difference-in-means", "activation-svd")
    )
    for name in means:
        assert means[name].shape == svd[name].shape == (128, 1)
        assert (means[name].T @ svd[name]).abs().item() == pytest.approx(1, abs=1e-5)
        assert said[name.removeprefix("layers.")]["distance"] > 0


def test_singular_vectors_of_raw_differences_keep_the_share_of_their_squared_length(
    pair: Pair, testbed_base: Base, tmp_path: Path
) -> None:
    recipe = recipe_of("activation-svd", {"variance": 0.95})
    state, report = found(pair, recipe, tmp_path)
    start, material = loaded.initialisation_of(pair, recipe)
    assert isinstance(start.settings, ContrastSettings)
    seen = contrasted(start, pair, recipe, seed=None, tokenizer=testbed_base.tokenizer)
    (batch,) = contrast_means(material.model, [0], seen, positions=start.settings.positions)
    rows, basis = batch[0, "difference"], state["layers.0"]
    kept = [(rows @ basis[:, :n]).square().sum() / rows.square().sum() for n in (basis.shape[1], basis.shape[1] - 1)]
    assert kept[1] < 0.95 <= kept[0] + 1e-5 and report["0"]["tau_dim"] < basis.shape[1] > 1


@pytest.mark.parametrize(
    ("method", "layers"), [("sails", {0, 1, 2, 3}), ("sails-undertrained", {1, 2}), ("sails-narrow", {1})]
)
def test_a_recipe_takes_the_saes_that_it_names(pair: Pair, tmp_path: Path, method: str, layers: set[int]) -> None:
    state, _ = found(pair, load_recipe(method), tmp_path)
    assert state.keys() == {f"layers.{layer}" for layer in layers}


def test_controls_start_at_the_layers_that_have_a_sae_and_at_all_where_none_has(pair: Pair, testbed_base: Base) -> None:
    few = pair.model_copy(update={"saes": pair.saes[1:2]})
    _, material = loaded.initialisation_of(few, load_recipe("random-orthonormal"))
    assert material.layers == [1]
    assert Material(testbed_base.model).layers == [0, 1, 2, 3]


# --- what a pair lacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "settings", "lacks", "complaint"),
    [
        ("sails", {}, {"saes": ()}, "method 'sails' needs SAEs, but pair 'testbed' has none; give --sae"),
        ("sails", {"saes": "naro"}, {}, "unknown SAE set of pair 'testbed': 'naro'; did you mean narrow"),
        ("sails", {"saes": "best"}, {}, "unknown SAE set of pair 'testbed': 'best'; known: narrow, one, undertrained"),
        ("sails", {}, {"contrast": None}, "method 'sails' needs contrast data .*give --contrast"),
        ("difference-in-means", {}, {"contrast": None}, "needs contrast data"),
        (
            "sails",
            SAILS[0],
            {"requests": None},
            "contrasts requests; name a file of them in the pair's YAML: 'requests",
        ),
        ("sails", {"contrast": "requests"}, {}, "recipe 'sails', settings: key 'positions': 'response' cannot be used"),
        ("lda", {"contrast": "requests"}, {}, "recipe 'lda', settings: key 'contrast'"),
        ("random-orthonormal", {"fill": "none"}, {}, "key 'fill'"),
        ("oracle", {}, {"planted": None}, "method 'oracle' needs a planted subspace, but pair 'testbed' has none"),
        ("oracle", {"scail": "unit"}, {}, "recipe 'oracle', settings: unknown key 'scail'; did you mean scale"),
        ("oracle", {"scale": "lora"}, {}, "recipe 'oracle', settings: key 'scale': .*'lora' is called 'matched'"),
        ("sails", {}, {"max_length": 8}, "contrast.jsonl: every request is longer than max_length=8 tokens"),
        ("sails", SAILS[0], {"max_length": 8}, "requests.jsonl: every request is longer than max_length=8 tokens"),
    ],
)
def test_what_a_pair_lacks_is_an_error(
    pair: Pair, testbed_base: Base, method: str, settings: dict[str, Any], lacks: dict[str, Any], complaint: str
) -> None:
    if "contrast" in settings and "positions" not in settings:
        recipe = load_recipe(method).model_copy(update={"settings": settings})
    else:
        recipe = recipe_of(method, settings)
    with pytest.raises(UserError, match=complaint):
        start, _ = loaded.initialisation_of(lacking := pair.model_copy(update=lacks), recipe)
        contrasted(start, lacking, recipe, seed=None, tokenizer=testbed_base.tokenizer)
