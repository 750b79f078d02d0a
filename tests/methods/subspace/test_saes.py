import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.methods.subspace.saes import load_saes

WIDTH, LAYERS = 6, 3


@pytest.fixture
def model() -> Any:
    """All that loading wants to know of a model."""
    config = SimpleNamespace(hidden_size=WIDTH, num_hidden_layers=LAYERS)
    return SimpleNamespace(device="cpu", config=SimpleNamespace(get_text_config=lambda: config))


def save_sae(folder: Path, hook: str | None, *, width: int = WIDTH) -> Path:
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=8, device="cpu"))
    sae.cfg.metadata.hook_name = hook
    sae.save_model(folder)
    return folder


def pair_with(*saes: Path | SaeSource) -> Pair:
    sources = tuple(SaeSource(path=sae) if isinstance(sae, Path) else sae for sae in saes)
    return Pair(name="p", model="m", saes=sources)


def test_saes_come_by_layer_in_ascending_order(model: Any, tmp_path: Path) -> None:
    folders = [save_sae(tmp_path / f"{layer}", f"model.layers.{layer}") for layer in (2, 0)]
    saes = load_saes(pair_with(*folders), model)
    assert list(saes) == [0, 2]
    stream = torch.randn(5, WIDTH)
    assert saes[0].encode(stream).shape == (5, 8)
    assert not torch.equal(saes[0].W_dec, saes[2].W_dec)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.1.hook_resid_post", 1),
        ("model.layers.2", 2),
        ("model.language_model.layers.0", 0),
        ("transformer.h.1", 1),
        ("layers.2", 2),
    ],
)
def test_the_layer_is_read_from_the_name_of_the_hook(model: Any, tmp_path: Path, hook: str, layer: int) -> None:
    assert list(load_saes(pair_with(save_sae(tmp_path / "sae", hook)), model)) == [layer]


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.1.hook_resid_pre",
        "blocks.1.hook_mlp_out",
        "model.layers.1.mlp",
        "blocks.1.attn.hook_z",
        "players.1",
        None,
    ],
)
def test_another_place_than_the_output_of_a_layer_is_an_error(model: Any, tmp_path: Path, hook: str | None) -> None:
    sae = save_sae(tmp_path / "sae", hook)
    with pytest.raises(UserError, match=f"sae': its hook '{hook or ''}' is not the output of a layer; .*say 'layer'"):
        load_saes(pair_with(sae), model)
    # Whoever says so knows better.
    assert list(load_saes(pair_with(SaeSource(path=sae, layer=1)), model)) == [1]


def test_a_sae_of_another_width_is_an_error(model: Any, tmp_path: Path) -> None:
    sae = save_sae(tmp_path / "sae", "model.layers.1", width=9)
    with pytest.raises(UserError, match=r"SAE of layer 1 reads vectors of width 9, but .* has width 6"):
        load_saes(pair_with(sae), model)


def test_a_sae_of_a_layer_that_the_model_lacks_is_an_error(model: Any, tmp_path: Path) -> None:
    sae = save_sae(tmp_path / "sae", "blocks.3.hook_resid_post")
    with pytest.raises(UserError, match="SAE of layer 3: the model has 3 layers, counted from 0"):
        load_saes(pair_with(sae), model)


def test_two_saes_of_a_layer_are_an_error(model: Any, tmp_path: Path) -> None:
    one, other = (
        save_sae(tmp_path / name, hook) for name, hook in (("a", "model.layers.1"), ("b", "blocks.1.hook_resid_post"))
    )
    with pytest.raises(UserError, match="two SAEs are given for layer 1"):
        load_saes(pair_with(one, other), model)


def test_a_folder_without_a_sae_is_an_error(model: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none': no cfg.json there; give a folder that SAELens saved"):
        load_saes(pair_with(tmp_path / "none"), model)


DAMAGE = {
    "no weights": ": cannot load it: ",
    "cut weights": "sae_weights.safetensors: damaged or cut off",
    "foreign weights": ": cannot load it: ",
    "broken cfg": "cfg.json: not valid JSON",
    "empty cfg": "cfg.json: key 'd_in': field required",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_sae_is_an_error_of_one_line(model: Any, tmp_path: Path, damage: str) -> None:
    sae = save_sae(tmp_path / "sae", "model.layers.1")
    weights, config = sae / "sae_weights.safetensors", sae / "cfg.json"
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-20])
    elif damage == "foreign weights":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"d_sae": 9}))
    elif damage == "broken cfg":
        config.write_text("{")
    else:
        config.write_text("{}")
    with pytest.raises(UserError, match=f"{sae}'?/?{DAMAGE[damage]}") as caught:
        load_saes(pair_with(sae), model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [SaeSource(), SaeSource(release="r"), SaeSource(id="i")])
def test_a_sae_from_nowhere_is_an_error(model: Any, source: SaeSource) -> None:
    with pytest.raises(UserError, match="an SAE needs a 'path', or a 'release' and an 'id'"):
        load_saes(pair_with(source), model)


def test_an_unknown_release_is_an_error(model: Any) -> None:
    with pytest.raises(UserError, match="SAE 'no-such-release/layer_1': cannot load it"):
        load_saes(pair_with(SaeSource(release="no-such-release", id="layer_1")), model)
