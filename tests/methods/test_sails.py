from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model

from sails_eval.config import Pair
from sails_eval.data import read_contrast
from sails_eval.errors import UserError
from sails_eval.methods import ContrastPair
from sails_eval.methods.sails import (
    READERS,
    WRITERS,
    Settings,
    choose_features,
    complete_basis,
    get_sails_state_dict,
    initialize_lora_sails_weights,
    mean_features,
    orthonormal_basis,
    residual_side,
    residual_streams,
)
from sails_eval.models import Base, decoder_layers, encode_chat
from sails_eval.train import encode_contrast

WIDTH = 128  # of the testbed's residual stream
EVERY_MODULE = sorted(READERS | WRITERS)


def orthonormal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    random = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(random).Q


def is_orthonormal(basis: torch.Tensor) -> bool:
    return torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)


# --- from directions to a basis ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("variance", "kept"), [(0.3, 1), (0.6, 1), (0.61, 2), (0.8, 2), (0.9, 2), (0.91, 3), (1.0, 3)])
def test_a_basis_keeps_the_strongest_directions_up_to_the_share_of_variance(variance: float, kept: int) -> None:
    axes = orthonormal(20, 3)
    counts = (6, 3, 1)  # unit vectors along each axis, so the squared singular values are 6, 3 and 1
    directions = torch.cat([axes[:, i].repeat(n, 1) for i, n in enumerate(counts)])
    lengths = torch.linspace(0.01, 50, len(directions))[:, None]  # must not matter; the weakest is the longest
    basis = orthonormal_basis(directions * lengths, variance=variance)
    assert basis.shape == (20, kept) and is_orthonormal(basis)
    assert torch.allclose((axes[:, :kept].T @ basis).abs(), torch.eye(kept), atol=1e-5)


def test_a_basis_holds_the_directions_themselves_and_not_only_their_differences() -> None:
    shared = orthonormal(10, 1)
    directions = shared.T + 0.05 * orthonormal(10, 4, seed=1).T  # centring would take the shared part away
    basis = orthonormal_basis(directions, variance=0.8)
    assert basis.shape == (10, 1)
    assert (shared.T @ basis).abs().item() > 0.99


def test_all_variance_spans_every_direction() -> None:
    directions = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    basis = orthonormal_basis(directions, variance=1.0)
    assert basis.shape == (30, 7) and is_orthonormal(basis)
    assert torch.allclose(directions @ basis @ basis.T, directions, atol=1e-4)


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


# --- from activations to features --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "best"),
    [("abs", [1, 3, 2, 4]), ("positive", [2, 4]), ("negative", [1, 3]), ("relative", [4, 1, 3, 2])],
)
def test_features_are_chosen_by_score_best_first(score: Any, best: list[int]) -> None:
    aligned = torch.tensor([1.0, 0.0, 5.0, 2.0, 0.1, 0.0])
    unaligned = torch.tensor([1.0, 3.0, 4.0, 4.0, 0.0, 0.0])
    # Fewer than k differ at all: the others are not chosen.
    chosen, difference = choose_features(aligned, unaligned, Settings(score=score, k=6))
    assert chosen.tolist() == best
    assert difference.tolist() == pytest.approx([0, -3, 1, -2, 0.1, 0])
    assert choose_features(aligned, unaligned, Settings(score=score, k=1))[0].tolist() == best[:1]


def test_equal_scores_are_settled_by_the_lower_number() -> None:
    chosen, _ = choose_features(torch.ones(100), torch.zeros(100), Settings(k=5))
    assert chosen.tolist() == [0, 1, 2, 3, 4]


def test_contrast_texts_that_are_alike_are_an_error() -> None:
    same = torch.tensor([1.0, 2.0])
    with pytest.raises(UserError, match="no SAE feature tells the aligned from the unaligned"):
        choose_features(same, same, Settings())


class StandInSae:
    """Reads the stream through a random matrix; its decoder directions are of very different lengths."""

    def __init__(self, seed: int, features: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(WIDTH, features, generator=generator)
        self.W_dec = torch.randn(features, WIDTH, generator=generator) * torch.logspace(-1, 1, features)[:, None]
        self.cfg = SimpleNamespace(d_in=WIDTH)

    def encode(self, stream: torch.Tensor) -> torch.Tensor:
        return torch.relu(stream @ self.weight)


# (token ids, where the answer starts): answers of 1, 6 and 3 tokens
TEXTS = [
    ([2, 10, 11, 12, 13, 14, 15, 16, 17], 8),
    ([2, 20, 21, 22, 23, 24, 25, 26, 27, 28], 4),
    ([2, 30, 31, 32], 1),
]


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_mean_features_are_the_mean_over_texts_of_the_mean_over_answer_tokens(
    testbed_base: Base, batch_size: int
) -> None:
    saes = {0: StandInSae(0), 2: StandInSae(1)}
    found = mean_features(testbed_base.model, saes, TEXTS, batch_size=batch_size)
    assert list(found) == [0, 2]
    for layer, sae in saes.items():
        means = []
        for ids, start in TEXTS:  # one by one, without padding
            states = testbed_base.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            means.append(sae.encode(states[layer + 1][0, start:]).mean(0) * sae.W_dec.norm(dim=1))
        assert torch.allclose(found[layer], torch.stack(means).mean(0), rtol=1e-4, atol=1e-3)


def test_residual_streams_are_the_outputs_of_the_layers(testbed_base: Base) -> None:
    model, layers = testbed_base.model, decoder_layers(testbed_base.model)
    ids = torch.randint(6, 500, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    last: list[Any] = []
    handle = layers[-1].register_forward_hook(lambda module, inputs, output: last.append(output))
    with torch.no_grad():
        states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    handle.remove()
    with torch.no_grad():
        found = residual_streams(model, range(len(layers)), ids, mask)
    assert [layer for layer, _ in found] == list(range(len(layers)))
    for layer, stream in found[:-1]:
        assert torch.equal(stream, states[layer + 1])
    after_last_layer = last[0][0] if isinstance(last[0], tuple) else last[0]
    assert torch.equal(found[-1][1], after_last_layer)
    assert not torch.allclose(found[-1][1], states[-1])  # that one is taken after the final norm


def test_layers_after_the_last_one_of_interest_do_not_run(testbed_base: Base) -> None:
    layers = decoder_layers(testbed_base.model)
    hooks = [len(layer._forward_hooks) for layer in layers]
    ran: list[int] = []
    handles = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(layers)]
    ids = torch.tensor([[2, 10, 11]])
    found = residual_streams(testbed_base.model, [0, 2], ids, torch.ones_like(ids))
    for handle in handles:
        handle.remove()
    assert [layer for layer, _ in found] == [0, 2]
    assert ran == [0, 1, 2]
    assert [len(layer._forward_hooks) for layer in layers] == hooks  # its own are gone too


def contrast_pairs(pair: Pair, base: Base, n: int) -> list[ContrastPair]:
    assert pair.contrast is not None
    return encode_contrast(base.tokenizer, read_contrast(pair.contrast).examples[:n], pair.max_length)


@pytest.fixture(scope="module")
def state(testbed_pair: Pair, testbed_base: Base, testbed_saes: dict[int, Any]) -> dict[str, torch.Tensor]:
    contrast = contrast_pairs(testbed_pair, testbed_base, 8)
    return get_sails_state_dict(testbed_base.model, testbed_saes, contrast)[0]


def test_the_state_holds_a_basis_of_the_chosen_decoder_directions_of_every_layer(
    testbed_pair: Pair, testbed_base: Base, testbed_saes: dict[int, Any]
) -> None:
    contrast = contrast_pairs(testbed_pair, testbed_base, 6)
    settings = Settings(k=10, variance=0.9)
    state, report = get_sails_state_dict(testbed_base.model, testbed_saes, contrast, settings=settings)
    assert list(state) == [f"layers.{layer}" for layer in testbed_saes]
    for layer, sae in testbed_saes.items():
        basis, said = state[f"layers.{layer}"], report[str(layer)]
        assert is_orthonormal(basis) and basis.shape == (WIDTH, said["dim"])
        assert len(set(said["features"])) == len(said["difference"]) == 10
        strength = [abs(value) for value in said["difference"]]
        assert strength == sorted(strength, reverse=True) and strength[-1] > 0
        unit = torch.nn.functional.normalize(sae.W_dec.detach()[said["features"]], dim=1)
        kept, all_but_one = ((unit @ basis[:, :m]).pow(2).sum() / 10 for m in (said["dim"], said["dim"] - 1))
        assert all_but_one < 0.9 <= kept + 1e-5
    for pair_ in contrast:  # swapping the answers changes the sign of every difference and nothing else
        assert pair_.aligned != pair_.unaligned
    swapped = [ContrastPair(p.unaligned, p.aligned, p.start) for p in contrast]
    _, mirrored = get_sails_state_dict(testbed_base.model, testbed_saes, swapped, settings=settings)
    for name, said in report.items():
        assert mirrored[name]["features"] == said["features"]
        assert mirrored[name]["difference"] == [-value for value in said["difference"]]


def test_no_contrast_is_an_error(testbed_base: Base, testbed_saes: dict[int, Any]) -> None:
    with pytest.raises(UserError, match="SAILS needs contrast data"):
        get_sails_state_dict(testbed_base.model, testbed_saes, [])


def test_a_sae_of_another_width_is_an_error(testbed_base: Base) -> None:
    sae = SimpleNamespace(cfg=SimpleNamespace(d_in=64))
    contrast = [ContrastPair([2, 10], [2, 11], 1)]
    with pytest.raises(UserError, match=r"width 64, but the model's residual stream has width 128"):
        get_sails_state_dict(testbed_base.model, {0: sae}, contrast)


# --- from a basis to LoRA weights --------------------------------------------------------------------------------


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


def weights(model: Any) -> dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]:
    """(layer, module) → copies of its lora_A and lora_B."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            side = (residual_side(name)[0], name.rsplit(".", 1)[-1])
            found[side] = tuple(part["default"].weight.detach().clone() for part in (module.lora_A, module.lora_B))
    return found


def some_input(base: Base) -> torch.Tensor:
    return torch.tensor([encode_chat(base.tokenizer, [{"role": "user", "content": "how do i boil rice ?"}])])


@pytest.mark.parametrize("fill", ["random", "none"])
@pytest.mark.parametrize("rank", [4, 32])  # narrower and wider than the bases
def test_no_logit_changes_at_step_0(
    testbed_base: Base, state: dict[str, torch.Tensor], rank: int, fill: Literal["random", "none"]
) -> None:
    ids = some_input(testbed_base)
    with torch.no_grad():
        before = testbed_base.model(ids).logits
        with lora_on(testbed_base, rank=rank) as model:
            start = weights(model)
            initialize_lora_sails_weights(model, state, fill=fill)
            assert any(not torch.equal(a, start[key][0]) for key, (a, _) in weights(model).items())
            assert torch.equal(model(ids).logits, before)


def test_writers_take_their_own_layers_basis_and_readers_that_of_the_layer_before(testbed_base: Base) -> None:
    basis = orthonormal(WIDTH, 4)
    with lora_on(testbed_base) as model:
        start = weights(model)
        initialize_lora_sails_weights(model, {"layers.1": basis})
        for (layer, module), (down, up) in weights(model).items():
            if layer == 1 and module in ("o_proj", "down_proj"):
                assert torch.equal(up, basis) and not down.any()
            elif layer == 2 and module in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"):
                assert torch.equal(down, basis.T) and not up.any()
            else:  # no SAE on its side of the stream: as PEFT made it
                assert torch.equal(down, start[layer, module][0]) and torch.equal(up, start[layer, module][1])


@pytest.mark.parametrize("fill", ["random", "none"])
def test_every_row_of_the_rank_can_learn(testbed_base: Base, fill: Literal["random", "none"]) -> None:
    basis, ids = orthonormal(WIDTH, 2), some_input(testbed_base)
    with lora_on(testbed_base, ["q_proj", "o_proj"]) as model:
        start = weights(model)
        initialize_lora_sails_weights(model, {f"layers.{layer}": basis for layer in range(4)}, fill=fill)
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
            initialize_lora_sails_weights(model, state, seed=seed)
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
        initialize_lora_sails_weights(model, {"layers.0": orthonormal(WIDTH, 4)}, adapter_name="second")
        assert all(torch.equal(a, before[key][0]) for key, (a, _) in weights(model).items())


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("base_model.model.model.layers.3.self_attn.q_proj", (3, False)),
        ("base_model.model.model.layers.12.mlp.down_proj", (12, True)),
        ("model.language_model.layers.0.mlp.up_proj", (0, False)),
        ("transformer.h.7.attn.o_proj", (7, True)),
    ],
)
def test_the_side_of_a_module_is_told_by_its_name(name: str, side: tuple[int, bool]) -> None:
    assert residual_side(name) == side


@pytest.mark.parametrize("name", ["model.layers.1.mlp.gate_up_proj", "model.lm_head", "vision.q_proj"])
def test_a_module_on_neither_side_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' reads or writes the residual stream; it knows down_proj, "):
        residual_side(name)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_target_module_on_neither_side_is_an_error(testbed_base: Base, state: dict[str, torch.Tensor]) -> None:
    with lora_on(testbed_base, ["q_proj", "lm_head"]) as model, pytest.raises(UserError, match="lm_head"):
        initialize_lora_sails_weights(model, state)


@pytest.mark.parametrize("state_", [{}, {"layers.3": orthonormal(WIDTH, 4)}])
def test_no_module_at_a_layer_with_a_sae_is_an_error(testbed_base: Base, state_: dict[str, torch.Tensor]) -> None:
    with lora_on(testbed_base, ["q_proj"]) as model, pytest.raises(UserError, match="initialised no module"):
        initialize_lora_sails_weights(model, state_)  # nothing reads from the last layer's stream
