from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2DecoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from sails_eval.core.errors import UserError
from sails_eval.methods.subspace.basis import (
    LORA_NORM,
    complete_basis,
    describe,
    divided,
    initialise,
    norm_gain,
    orthonormal_basis,
)
from sails_eval.methods.subspace.settings import Placement
from sails_eval.models.architectures import architecture
from sails_eval.models.base import Base
from sails_eval.models.chat import encode_chat

WIDTH = 128  # of the testbed's residual stream
WRITERS = ("down_proj", "o_proj")
EVERY_MODULE = sorted([*WRITERS, "gate_proj", "k_proj", "q_proj", "up_proj", "v_proj"])


def orthonormal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    random = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    q: torch.Tensor = torch.linalg.qr(random).Q
    return q


def is_orthonormal(basis: torch.Tensor) -> bool:
    return torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)


# --- made of directions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variance", "kept"), [(0.3, 1), (0.6, 1), (0.61, 2), (0.8, 2), (0.9, 2), (0.91, 3), (1.0, 3)])
def test_a_basis_keeps_the_strongest_directions_up_to_the_share_of_variance(variance: float, kept: int) -> None:
    axes = orthonormal(20, 3)
    counts = (6, 3, 1)  # unit vectors along each axis, so the squared singular values are 6, 3 and 1
    directions = torch.cat([axes[:, i].repeat(n, 1) for i, n in enumerate(counts)])
    basis = orthonormal_basis(directions, variance=variance).columns
    assert basis.shape == (20, kept) and is_orthonormal(basis)
    assert torch.allclose((axes[:, :kept].T @ basis).abs(), torch.eye(kept), atol=1e-5)


def test_a_basis_holds_the_directions_themselves_and_not_only_their_differences() -> None:
    shared = orthonormal(10, 1)
    directions = shared.T + 0.05 * orthonormal(10, 4, seed=1).T  # centring would take the shared part away
    basis = orthonormal_basis(directions, variance=0.8).columns
    assert basis.shape == (10, 1)
    assert (shared.T @ basis).abs().item() > 0.99


def test_a_centred_basis_holds_the_differences_and_not_what_is_shared() -> None:
    shared, apart = orthonormal(10, 3)[:, :1], orthonormal(10, 3)[:, 1:]
    directions = shared.T + torch.cat([apart.T, -apart.T])
    basis = orthonormal_basis(directions, variance=1.0, centred=True).columns
    assert basis.shape == (10, 2)
    assert torch.allclose(basis @ basis.T, apart @ apart.T, atol=1e-5)
    with pytest.raises(UserError, match="at least two different directions are needed"):
        orthonormal_basis(shared.T.repeat(3, 1), variance=0.8, centred=True)


def test_all_variance_spans_every_direction() -> None:
    directions = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    directions[-1] *= 1e-4  # what is weak is part of it, too
    basis = orthonormal_basis(directions, variance=1.0).columns
    assert basis.shape == (30, 7) and is_orthonormal(basis)
    assert torch.allclose(directions @ basis @ basis.T, directions, atol=1e-5)


def test_a_narrow_basis_is_filled_with_a_random_orthonormal_complement() -> None:
    basis = orthonormal(50, 3)
    complete = complete_basis(basis, 8, fill="random", seed="0:a")
    assert complete.shape == (50, 8) and is_orthonormal(complete)
    assert torch.equal(complete[:, :3], basis)
    assert torch.equal(complete, complete_basis(basis, 8, fill="random", seed="0:a"))
    assert not torch.allclose(complete[:, 3:], complete_basis(basis, 8, fill="random", seed="0:b")[:, 3:])


def test_a_basis_is_completed_up_to_the_whole_space() -> None:
    assert is_orthonormal(complete_basis(orthonormal(12, 5), 12, fill="random", seed="x"))


@pytest.mark.parametrize("fill", ["random", "none"])
def test_a_basis_wider_than_the_rank_is_cut_to_its_strongest_columns(fill: str) -> None:
    basis = orthonormal(50, 8)
    assert torch.equal(complete_basis(basis, 3, fill=fill, seed="x"), basis[:, :3])


def test_a_narrow_basis_can_be_left_as_it_is() -> None:
    basis = orthonormal(50, 3)
    assert torch.equal(complete_basis(basis, 8, fill="none", seed="x"), basis)


# --- placed into LoRA's weights ----------------------------------------------------------------------------------


@contextmanager
def lora_on(base: Base, modules: Sequence[str] = EVERY_MODULE, rank: int = 4) -> Iterator[Any]:
    """The base model with a fresh LoRA adapter, and without it again afterwards."""
    torch.manual_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=list(modules))
    model = get_peft_model(base.model, config)
    try:
        yield model.eval()
    finally:
        model.unload()


def key_of(name: str) -> tuple[int, str]:
    """The layer of a module, and what it is called there."""
    return int(name.split(".layers.")[1].split(".")[0]), name.rsplit(".", 1)[-1]


def weights(model: Any) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """(layer, module) → copies of its lora_A and lora_B."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            side = key_of(name)
            found[side] = tuple(part["default"].weight.detach().clone() for part in (module.lora_A, module.lora_B))
    return found


def some_input(base: Base) -> torch.Tensor:
    return torch.tensor([encode_chat(base.tokenizer, [{"role": "user", "content": "how do i boil rice ?"}])])


def test_writers_take_their_own_layers_basis_and_readers_that_of_the_layer_before(testbed_base: Base) -> None:
    basis = orthonormal(WIDTH, 4)
    with lora_on(testbed_base) as model:
        start = weights(model)
        initialise(model, {"layers.1": basis}, settings=Placement(), seed=0)
        for (layer, module), (down, up) in weights(model).items():
            if layer == 1 and module in ("o_proj", "down_proj"):
                assert torch.equal(up, LORA_NORM * basis) and not down.any()
            elif layer == 2 and module in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
                assert torch.equal(down, LORA_NORM * basis.T) and not up.any()
            else:  # no SAE on its side of the stream: as PEFT made it
                assert torch.equal(down, start[layer, module][0]) and torch.equal(up, start[layer, module][1])


@pytest.mark.parametrize("fill", ["random", "none"])
def test_every_row_of_the_rank_can_learn(testbed_base: Base, fill: Any) -> None:
    basis, ids = orthonormal(WIDTH, 2), some_input(testbed_base)
    with lora_on(testbed_base, ["q_proj", "o_proj"]) as model:
        start = weights(model)
        placed = Placement(fill=fill, scale="unit")
        initialise(model, {f"layers.{layer}": basis for layer in range(4)}, settings=placed, seed=0)
        for (layer, module), (down, up) in weights(model).items():
            inside = up if module == "o_proj" else down.T
            if layer == 0 and module == "q_proj":
                continue  # nothing is read from a layer before the first
            assert torch.equal(inside[:, :2], basis)
            if fill == "random":
                assert is_orthonormal(inside)
            else:
                assert torch.equal(down[2:], start[layer, module][0][2:]) and not up[:, 2:].any()
        model(ids, labels=ids).loss.backward()
        for module in model.modules():
            if hasattr(module, "lora_A"):
                down, up = (part["default"].weight.grad.abs() for part in (module.lora_A, module.lora_B))
                assert ((down.sum(1) + up.sum(0)) > 0).all()


def test_the_fill_depends_on_the_seed_and_the_module_only(testbed_base: Base) -> None:
    state = {f"layers.{layer}": orthonormal(WIDTH, 2) for layer in range(4)}
    made: list[dict[int, torch.Tensor]] = []
    for seed in (1, 1, 2):
        with lora_on(testbed_base, ["o_proj"]) as model:
            torch.manual_seed(len(made))
            initialise(model, state, settings=Placement(), seed=seed)
            made.append({layer: up for (layer, _), (_, up) in weights(model).items()})
    first, again, other = made
    assert all(torch.equal(first[layer], again[layer]) for layer in first)
    assert all(torch.equal(first[layer][:, :2], other[layer][:, :2]) for layer in first)
    assert not any(torch.allclose(first[layer][:, 2:], other[layer][:, 2:]) for layer in first)
    assert not torch.allclose(first[0][:, 2:], first[1][:, 2:])


def test_another_adapter_than_the_one_named_is_left_alone(testbed_base: Base) -> None:
    with lora_on(testbed_base, ["q_proj"]) as model:
        before = weights(model)
        model.add_adapter("second", LoraConfig(r=4, target_modules=["q_proj"]))
        initialise(model, {"layers.0": orthonormal(WIDTH, 4)}, settings=Placement(), seed=0, adapter_name="second")
        assert all(torch.equal(a, before[key][0]) for key, (a, _) in weights(model).items())


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_target_module_on_neither_side_is_an_error(testbed_base: Base) -> None:
    state = {"layers.0": orthonormal(WIDTH, 4)}
    with lora_on(testbed_base, ["q_proj", "lm_head"]) as model, pytest.raises(UserError, match="lm_head"):
        initialise(model, state, settings=Placement(), seed=0)


@pytest.mark.parametrize("state_", [{}, {"layers.3": orthonormal(WIDTH, 4)}])
def test_no_module_at_a_layer_with_a_sae_is_an_error(testbed_base: Base, state_: dict[str, torch.Tensor]) -> None:
    with lora_on(testbed_base, ["q_proj"]) as model, pytest.raises(UserError, match="no module was initialised"):
        initialise(model, state_, settings=Placement(), seed=0)  # nothing reads from the last layer's stream


def start_of(base: Base, state: dict[str, torch.Tensor], modules: Sequence[str], **settings: Any) -> dict[Any, Any]:
    """(layer, module) → (lora_A, lora_B, whether each is trained) under the settings; bases at length 1."""
    with lora_on(base, modules) as model:
        initialise(model, state, settings=Placement(**{"scale": "unit", **settings}), seed=0)
        trained = {
            key_of(name): tuple(part["default"].weight.requires_grad for part in (module.lora_A, module.lora_B))
            for name, module in model.named_modules()
            if hasattr(module, "lora_A")
        }
        return {key: (*parts, trained[key]) for key, parts in weights(model).items()}


BOTH = ["q_proj", "o_proj"]  # a reader and a writer


@pytest.mark.parametrize("side", ["read", "write"])
def test_only_the_modules_of_a_side_take_the_basis(testbed_base: Base, side: str) -> None:
    state = {f"layers.{layer}": orthonormal(WIDTH, 4) for layer in range(4)}
    both, one = start_of(testbed_base, state, BOTH), start_of(testbed_base, state, BOTH, side=side)
    plain = start_of(testbed_base, {"layers.0": state["layers.0"]}, BOTH)  # layers 2 and 3 as PEFT makes them
    for layer, module in ((2, "q_proj"), (3, "o_proj")):
        expected = both if module == ("q_proj" if side == "read" else "o_proj") else plain
        assert all(torch.equal(one[layer, module][i], expected[layer, module][i]) for i in (0, 1))
        assert one[layer, module][2] == (True, True)


def test_layers_without_a_basis_can_take_the_nearest_below_or_be_left_out(testbed_base: Base) -> None:
    state = {"layers.1": orthonormal(WIDTH, 4)}
    plain, near, skip = (
        start_of(testbed_base, state, BOTH, uncovered=uncovered) for uncovered in ("lora", "nearest_below", "skip")
    )
    covered = {(1, "o_proj"), (2, "q_proj")}
    for key in plain:
        assert skip[key][2] == ((True, True) if key in covered else (False, False))
        assert torch.equal(skip[key][1], plain[key][1])
        assert near[key][2] == (True, True)
        if key in covered | {(2, "o_proj"), (3, "o_proj"), (3, "q_proj")}:
            assert torch.equal(near[key][1] if key[1] == "o_proj" else near[key][0].T, state["layers.1"])
        else:  # nothing below
            assert torch.equal(near[key][0], plain[key][0]) and torch.equal(near[key][1], plain[key][1])


@pytest.mark.parametrize("modules", [["q_proj", "gate_proj"], ["o_proj", "down_proj"]])
def test_by_default_the_start_has_the_norm_of_pefts_own(testbed_base: Base, modules: list[str]) -> None:
    state = {f"layers.{layer}": orthonormal(WIDTH, 2) for layer in range(4)}
    with lora_on(testbed_base, modules, rank=8) as model:
        plain = weights(model)
        initialise(model, state, settings=Placement(), seed=0)
        for key, (down, up) in weights(model).items():
            one, other = ((a.norm() + b.norm()).item() for a, b in ((down, up), plain[key]))  # one of them is zero
            assert one == pytest.approx(other, rel=0.1)
            if key[0] or key[1] in WRITERS:
                lengths = up.norm(dim=0) if key[1] in WRITERS else down.norm(dim=1)
                assert torch.allclose(lengths, torch.tensor(LORA_NORM))


def test_the_former_name_of_the_scale_is_told() -> None:
    with pytest.raises(ValueError, match=r"'lora' is called 'matched' since 0\.3\.0"):
        Placement(scale="lora")  # type: ignore[arg-type]


def test_readers_take_the_basis_for_readers_where_there_is_one(testbed_base: Base) -> None:
    write, read = orthonormal(WIDTH, 4), orthonormal(WIDTH, 4, seed=1)
    state = {"layers.0": write, "layers.1": write, "layers.1.read": read}
    found = start_of(testbed_base, state, BOTH, uncovered="nearest_below")
    assert torch.equal(found[1, "o_proj"][1], write) and torch.equal(found[3, "o_proj"][1], write)
    assert torch.equal(found[1, "q_proj"][0], write.T)
    assert torch.equal(found[2, "q_proj"][0], read.T) and torch.equal(found[3, "q_proj"][0], read.T)


@pytest.mark.parametrize("fill", ["random", "none"])
def test_a_frozen_basis_is_not_trained_and_without_a_fill_nothing_leaves_it(testbed_base: Base, fill: str) -> None:
    state = {f"layers.{layer}": orthonormal(WIDTH, 2) for layer in range(4)}
    found = start_of(testbed_base, state, BOTH, basis="frozen", fill=fill)
    for (layer, module), (down, up, trained) in found.items():
        if (layer, module) == (0, "q_proj"):
            assert trained == (True, True)
            continue
        assert trained == ((True, False) if module == "o_proj" else (False, True))
        inside = up if module == "o_proj" else down.T
        assert torch.equal(inside[:, :2], state["layers.0"])
        assert inside[:, 2:].any() == (fill == "random")


# --- gains -------------------------------------------------------------------------------------------------------


def layer_of(kind: str) -> Any:
    """A decoder layer of width 16, its gains at random."""
    if kind == "llama":
        config: Any = LlamaConfig(hidden_size=16, intermediate_size=8, num_attention_heads=2, num_hidden_layers=1)
        layer: Any = LlamaDecoderLayer(config, 0)
    else:
        config = Gemma2Config(hidden_size=16, intermediate_size=8, num_attention_heads=2, head_dim=4)
        layer = Gemma2DecoderLayer(config, 0)
    torch.manual_seed(0)
    for name, parameter in layer.named_parameters():
        if "norm" in name:
            parameter.data = torch.randn(16)
    return layer


def norm_of(kind: str, module: str) -> str | None:
    """The norm that the table has for a module."""
    place = architecture({"model_type": kind}, None).place(f"any.{module}")
    assert place is not None
    return place[1]


@pytest.mark.parametrize(
    ("kind", "module", "norm"),
    [
        ("llama", "v_proj", "input_layernorm"),
        ("llama", "up_proj", "post_attention_layernorm"),
        ("gemma2", "q_proj", "input_layernorm"),
        ("gemma2", "gate_proj", "pre_feedforward_layernorm"),
    ],
)
@torch.no_grad()
def test_with_gains_divided_a_reader_sees_its_span_only(kind: str, module: str, norm: str) -> None:
    layer, basis = layer_of(kind), orthonormal(16, 3)
    assert norm_of(kind, module) == norm
    rows = divided(basis, norm_gain(layer, norm)).T
    stream = torch.randn(5, 16)
    outside = stream - stream @ basis @ basis.T
    assert is_orthonormal(rows.T)
    assert torch.allclose(getattr(layer, norm)(outside) @ rows.T, torch.zeros(5, 3), atol=1e-5)
    assert (getattr(layer, norm)(outside) @ basis).abs().max() > 0.1  # with them ignored it sees more
    inside = getattr(layer, norm)(stream @ basis @ basis.T) @ rows.T
    assert torch.linalg.matrix_rank(inside) == 3


@pytest.mark.parametrize(
    ("module", "norm"), [("o_proj", "post_attention_layernorm"), ("down_proj", "post_feedforward_layernorm")]
)
@torch.no_grad()
def test_with_gains_divided_a_writer_adds_to_its_span_only(module: str, norm: str) -> None:
    layer, basis = layer_of("gemma2"), orthonormal(16, 3)
    assert norm_of("gemma2", module) == norm
    written = getattr(layer, norm)(torch.randn(5, 3) @ divided(basis, norm_gain(layer, norm)).T)
    assert torch.allclose(written @ basis @ basis.T, written, atol=1e-5)


def test_a_writer_without_a_norm_behind_it_keeps_its_basis() -> None:
    basis = orthonormal(16, 3)
    assert norm_gain(layer_of("llama"), norm_of("llama", "o_proj")) is None and divided(basis, None) is basis


def test_directions_that_a_gain_of_zero_lets_nothing_through_of_are_left_out() -> None:
    gain = torch.ones(16)
    gain[0] = 0
    rest = divided(orthonormal(16, 3), gain)
    assert is_orthonormal(rest) and rest[0].abs().max() < 1e-6


def test_norms_of_another_kind_are_an_error() -> None:
    layer = torch.nn.ModuleDict(
        {"input_layernorm": torch.nn.LayerNorm(4), "post_attention_layernorm": torch.nn.LayerNorm(4)}
    )
    with pytest.raises(UserError, match=r"'gains: divided' needs RMS norms .* has input_layernorm \(LayerNorm\)"):
        norm_gain(layer, "input_layernorm")
    with pytest.raises(UserError, match=r"ModuleDict lacks "):
        norm_gain(torch.nn.ModuleDict(), "input_layernorm")


def test_gains_are_divided_out_of_every_module(testbed_base: Base) -> None:
    state = {f"layers.{layer}": orthonormal(WIDTH, 4) for layer in range(4)}
    found = start_of(testbed_base, state, EVERY_MODULE, gains="divided")
    for (layer, module), (down, up, _) in found.items():
        if layer or module in WRITERS:
            gain = norm_gain(testbed_base.model.model.layers[layer], norm_of("gemma2", module))
            assert gain is not None
            inside = gain[:, None] * (up if module in WRITERS else down.T)
            assert torch.allclose(inside, state["layers.0"] @ (state["layers.0"].T @ inside), atol=1e-4)


# --- what is said of them ----------------------------------------------------------------------------------------


def test_a_description_tells_what_is_cut_filled_and_recovered() -> None:
    planted = {1: orthonormal(50, 4)}
    state = {"layers.0": orthonormal(50, 9), "layers.1": planted[1][:, :2]}
    assert describe(state, rank=6, fill="random", planted=planted) == {
        "0": {"used_dim": 6, "filled": 0},
        "1": {
            "used_dim": 2,
            "filled": 4,
            "recovery": pytest.approx(1 - 4 / 50, abs=1e-5),
            "sin_theta": pytest.approx((0.5 - 0.5 * 4 / 48) ** 0.5, abs=1e-5),
            "recovery_filled": pytest.approx((2 + 2 * 4 / 48) / 4 - 6 / 50, abs=1e-5),
        },
    }
    bare = describe(state, rank=6, fill="none", planted=planted)["1"]
    assert bare["filled"] == 0 and "recovery_filled" not in bare
    empty = describe({"layers.1": torch.zeros(50, 0)}, rank=6, fill="random", planted=planted)["1"]
    chance = pytest.approx((1 - 6 / 50) ** 0.5, abs=1e-6)
    nothing = {"recovery": None, "recovery_filled": pytest.approx(0, abs=1e-6), "sin_theta": chance}
    assert empty == {"used_dim": 0, "filled": 6, **nothing}


def test_what_is_said_of_a_basis_for_readers_has_names_of_its_own() -> None:
    planted = {1: orthonormal(50, 4)}
    state = {"layers.1": orthonormal(50, 9, seed=1), "layers.1.read": planted[1]}
    assert describe(state, rank=6, fill="none", planted=planted)["1"] == {
        "used_dim": 6,
        "filled": 0,
        "recovery": pytest.approx(0, abs=0.2),
        "sin_theta": pytest.approx(0.94, abs=0.1),
        "used_dim_read": 4,
        "filled_read": 0,
        "recovery_read": pytest.approx(1 - 4 / 50, abs=1e-5),
        "sin_theta_read": pytest.approx(0, abs=1e-3),
    }
