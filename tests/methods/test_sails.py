import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig
from scipy import stats
from transformers import PreTrainedConfig

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.data.reading import read_contrast
from sails_eval.methods import Material
from sails_eval.methods.sails import (
    SAILS,
    Differences,
    choose_features,
    feature_differences,
    get_sails_state_dict,
    initialize_lora_sails_weights,
    jaccard,
)
from sails_eval.methods.subspace.activations import Moments, moments
from sails_eval.methods.subspace.contrast import Contrast, Text, encode_contrast
from sails_eval.models.base import Base

Settings = SAILS.Settings
WIDTH = 128  # of the testbed's residual stream


def differences(aligned: list[float], unaligned: list[float], error: list[float] | None = None) -> Differences:
    rows = (torch.tensor(values) for values in (aligned, unaligned, error or [1.0] * len(aligned)))
    return Differences(*rows)


# --- the choice of features --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "best"),
    [
        ("abs", [1, 3, 2, 4]),
        ("positive", [2, 4]),
        ("negative", [1, 3]),
        ("relative", [4, 1, 3, 2]),
        ("t", [4, 3, 1, 2]),
    ],
)
def test_features_are_chosen_by_score_best_first(score: Any, best: list[int]) -> None:
    found = differences([1.0, 0.0, 5.0, 2.0, 0.1, 0.0], [1.0, 3.0, 4.0, 4.0, 0.0, 0.0], [1, 3, 9, 0.5, 0.01, 0])
    assert found.mean.tolist() == pytest.approx([0, -3, 1, -2, 0.1, 0])
    # Fewer than k differ at all: the others are not chosen.
    assert choose_features(found, score, 6).tolist() == best
    assert choose_features(found, score, 1).tolist() == best[:1]


def test_equal_scores_are_settled_by_the_lower_number() -> None:
    assert choose_features(differences([1.0] * 100, [0.0] * 100), "abs", 5).tolist() == [0, 1, 2, 3, 4]


def test_t_is_paired_over_pairs_and_welchs_over_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 4, generator=generator, dtype=torch.float64) + i for i in (0, 1))
    rows = {(0, "aligned"): a, (0, "unaligned"): b}
    welch = feature_differences(moments([rows]), 0)
    paired = feature_differences(moments([{**rows, (0, "difference"): a - b}]), 0)
    for found, expected in ((welch, stats.ttest_ind(a, b, equal_var=False)), (paired, stats.ttest_rel(a, b))):
        assert (found.mean / found.error).tolist() == pytest.approx(expected.statistic.tolist(), rel=1e-4)


def test_of_one_text_which_has_no_t_features_are_chosen_by_their_difference() -> None:
    one = {(0, kind): Moments.of(torch.rand(1, 4)) for kind in ("aligned", "unaligned", "difference")}
    found = feature_differences(one, 0)
    assert choose_features(found, "t", 32).tolist() == choose_features(found, "abs", 32).tolist()


@pytest.mark.parametrize(
    ("one", "other", "index"), [([1, 2], [2, 1], 1), ([1, 2], [3], 0), ([1, 2], [2, 3, 4], 0.25), ([], [], None)]
)
def test_the_jaccard_index_is_the_share_that_both_chose(one: list[int], other: list[int], index: float | None) -> None:
    assert jaccard(one, other) == index


# --- from texts to bases -----------------------------------------------------------------------------------------


def contrast_of(pair: Pair, base: Base, n: int) -> Contrast:
    assert pair.contrast is not None
    return encode_contrast(base.tokenizer, read_contrast(pair.contrast).examples[:n], pair.max_length)


@pytest.mark.parametrize(("positions", "weights"), [("response", "none"), ("first4", "delta")])
def test_the_state_holds_a_basis_of_the_chosen_decoder_directions_of_every_layer(
    testbed_pair: Pair, testbed_base: Base, testbed_saes: dict[int, Any], positions: Any, weights: Any
) -> None:
    contrast = contrast_of(testbed_pair, testbed_base, 6)
    settings = Settings(score="abs", k=10, variance=0.8, weights=weights, positions=positions)
    state, report = get_sails_state_dict(testbed_base.model, testbed_saes, contrast, settings=settings)
    assert list(state) == [f"layers.{layer}" for layer in testbed_saes]
    for layer, sae in testbed_saes.items():
        basis, said = state[f"layers.{layer}"], report[str(layer)]
        m = said["tau_dim"]
        assert basis.shape == (WIDTH, m) and torch.allclose(basis.T @ basis, torch.eye(m), atol=1e-5)
        assert len(set(said["features"])) == len(said["difference"]) == 10
        strength = [abs(value) for value in said["difference"]]
        assert strength == sorted(strength, reverse=True) and strength[-1] > 0
        rows = torch.nn.functional.normalize(sae.W_dec.detach()[said["features"]], dim=1)
        rows = rows * (torch.tensor(strength)[:, None] if weights == "delta" else 1)
        kept = [((rows @ basis[:, :n]).pow(2).sum() / rows.pow(2).sum()).item() for n in range(1, m + 1)]
        assert kept == pytest.approx(said["energy"], abs=1e-3)
        assert [0, *kept][-2] < 0.8 <= kept[-1] + 1e-5
        assert 0 <= said["split_half_jaccard"] <= 1
    # swapping the answers changes the sign of every difference and nothing else
    swapped = Contrast(contrast.unaligned, contrast.aligned)
    _, mirrored = get_sails_state_dict(testbed_base.model, testbed_saes, swapped, settings=settings)
    for name, said in report.items():
        assert mirrored[name]["features"] == said["features"]
        assert mirrored[name]["difference"] == [-value for value in said["difference"]]


class StandInSae:
    """Reads the stream through a random matrix; its decoder directions are of very different lengths."""

    def __init__(self, seed: int, features: int = 12) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(WIDTH, features, generator=generator)
        self.W_dec = torch.randn(features, WIDTH, generator=generator) * torch.logspace(-1, 1, features)[:, None]
        self.cfg = SimpleNamespace(d_in=WIDTH)

    def encode(self, stream: torch.Tensor) -> torch.Tensor:
        return torch.relu(stream @ self.weight)


def some_texts(n: int, first: int) -> list[Text]:
    return [Text([2, *range(first + i, first + i + 5)], answer=range(3, 6), request=range(1, 3)) for i in range(n)]


@pytest.mark.parametrize(("paired", "positions"), [(True, "response"), (False, "prompt_last")])
def test_differences_are_of_activation_times_decoder_norm(testbed_base: Base, paired: bool, positions: Any) -> None:
    sae, contrast = StandInSae(0), Contrast(some_texts(3, 10), some_texts(3, 40), paired)
    settings = Settings(contrast="responses" if paired else "requests", positions=positions, k=12)
    _, report = get_sails_state_dict(testbed_base.model, {1: sae}, contrast, settings=settings)
    means = []
    for texts in (contrast.aligned, contrast.unaligned):
        rows = []
        for text in texts:
            with torch.no_grad():
                state = testbed_base.model(torch.tensor([text.ids]), output_hidden_states=True).hidden_states[2]
            rows.append(sae.encode(state[0, text.positions(positions)]).mean(0) * sae.W_dec.norm(dim=1))
        means.append(torch.stack(rows).mean(0))
    difference = means[0] - means[1]
    assert report["1"]["difference"] == pytest.approx(difference[report["1"]["features"]].tolist(), rel=1e-3)
    assert len(report["1"]["features"]) == int((difference != 0).sum())


def test_a_single_pair_has_no_halves(testbed_base: Base) -> None:
    contrast = Contrast(some_texts(1, 10), some_texts(1, 40))
    _, report = get_sails_state_dict(testbed_base.model, {0: StandInSae(0)}, contrast)
    assert report["0"]["split_half_jaccard"] is None and report["0"]["features"]


def test_texts_that_are_alike_are_an_error(testbed_base: Base) -> None:
    same = Contrast(some_texts(2, 10), some_texts(2, 10))
    with pytest.raises(UserError, match="no SAE feature differs between aligned and unaligned"):
        get_sails_state_dict(testbed_base.model, {0: StandInSae(0)}, same)


def test_no_contrast_is_an_error(testbed_base: Base, testbed_saes: dict[int, Any]) -> None:
    with pytest.raises(UserError, match="SAILS needs contrast data"):
        get_sails_state_dict(testbed_base.model, testbed_saes, Contrast())


def test_a_sae_of_another_width_is_an_error(testbed_base: Base) -> None:
    sae = SimpleNamespace(cfg=SimpleNamespace(d_in=64))
    with pytest.raises(UserError, match=r"width 64, but the model's residual stream has width 128"):
        get_sails_state_dict(testbed_base.model, {0: sae}, Contrast(some_texts(1, 10), some_texts(1, 40)))


def test_the_weights_can_be_initialised_as_with_peft(testbed_base: Base) -> None:
    from peft import get_peft_model

    state = {"layers.1": torch.linalg.qr(torch.randn(WIDTH, 4)).Q}
    model = get_peft_model(testbed_base.model, LoraConfig(r=4, target_modules=["o_proj"]), adapter_name="mine")
    try:
        for settings, length in ((None, 3**-0.5), (Settings(scale="unit"), 1.0)):
            initialize_lora_sails_weights(model, state, adapter_name="mine", settings=settings)
            up = model.base_model.model.model.layers[1].self_attn.o_proj.lora_B["mine"].weight
            assert torch.allclose(up, length * state["layers.1"])
    finally:
        model.unload()


# --- a dictionary whose truth is known ---------------------------------------------------------------------------


class ToyModel(torch.nn.Module):
    """A model of one layer that does nothing: each token's residual stream is its row of a table."""

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.table, self.device = table, torch.device("cpu")
        self.layers = torch.nn.ModuleList([torch.nn.Identity()])
        self.config = PreTrainedConfig(hidden_size=table.shape[1], num_hidden_layers=1)

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> torch.Tensor:
        found: torch.Tensor = self.layers[0](self.table[input_ids])
        return found


class PerfectSae:
    """Knows the directions that the stream is made of, and reads exactly how much of each there is."""

    def __init__(self, directions: torch.Tensor) -> None:
        self.W_dec, self.W_enc = directions, torch.linalg.pinv(directions)
        self.cfg = SimpleNamespace(d_in=directions.shape[1])

    def encode(self, stream: torch.Tensor) -> torch.Tensor:
        return torch.relu(stream @ self.W_enc)


TRUE = 4


def perfect_world(d: int, features: int = 64, texts: int = 48) -> tuple[ToyModel, PerfectSae, Contrast]:
    """Of random directions the first `TRUE` are strong on aligned texts only; the others differ by chance."""
    generator = torch.Generator().manual_seed(0)
    sae = PerfectSae(torch.nn.functional.normalize(torch.randn(features, d, generator=generator), dim=1))
    amounts = 0.2 * torch.rand(2 * texts, features, generator=generator)
    amounts[:texts, :TRUE] += 1
    said = [Text([i], answer=range(1)) for i in range(2 * texts)]
    return ToyModel(amounts @ sae.W_dec), sae, Contrast(said[:texts], said[texts:])


def share_of_truth(basis: torch.Tensor, sae: PerfectSae) -> float:
    true = torch.linalg.qr(sae.W_dec[:TRUE].T).Q
    return float((basis.T @ true).square().sum()) / TRUE


@pytest.mark.parametrize(("d", "rank"), [(128, 8), (2304, 16)])
def test_what_the_features_found_outlasts_the_cut_at_the_rank(d: int, rank: int) -> None:
    model, sae, contrast = perfect_world(d)
    shares = {}
    for recipe in ("sails", "sails-literal"):
        settings = Settings(**load_recipe(recipe).settings)
        state, report = get_sails_state_dict(model, {0: sae}, contrast, settings=settings)
        assert {*range(TRUE)} <= {*report["0"]["features"]}  # all are among the chosen, either way
        shares[recipe] = share_of_truth(state["layers.0"][:, :rank], sae)
    assert shares["sails"] > 0.99
    assert shares["sails-literal"] < 0.65  # the paper's rule throws half of them away


def test_the_share_that_is_kept_decides_how_many_columns_are_found_and_how_many_filled() -> None:
    model, sae, contrast = perfect_world(128)
    widths, told = {}, {}
    for variance in (0.5, 0.8, 1.0):
        settings = Settings(variance=variance)
        state, report = get_sails_state_dict(model, {0: sae}, contrast, settings=settings)
        widths[variance], told[variance] = state["layers.0"].shape[1], report["0"]["tau_dim"]
    assert widths[0.5] < widths[0.8] == told[0.8] <= TRUE < widths[1.0] == 32
    assert told[1.0] == told[0.8]


def test_features_can_be_as_many_as_the_rank() -> None:
    model, sae, contrast = perfect_world(128)
    start = SAILS(Settings(k="rank"))
    state, report = start.prepare(Material(model, saes={0: sae}, contrast=contrast, adapter_config=LoraConfig(r=6)))
    assert state["layers.0"].shape[1] == len(report["0"]["features"]) == 6
    with pytest.raises(UserError, match="setting 'k: rank' needs an adapter's rank"):
        get_sails_state_dict(model, {0: sae}, contrast, settings=Settings(k="rank"))


def test_readers_can_start_from_encoder_directions() -> None:
    model, sae, contrast = perfect_world(128)
    plain, _ = get_sails_state_dict(model, {0: sae}, contrast)
    state, _ = get_sails_state_dict(model, {0: sae}, contrast, settings=Settings(readers="encoder"))
    assert state.keys() == {"layers.0", "layers.0.read"} and torch.equal(state["layers.0"], plain["layers.0"])
    strong = torch.nn.functional.normalize(sae.W_enc[:, :TRUE], dim=0)
    inside = (state["layers.0.read"][:, :8].T @ strong).norm(dim=0)
    assert inside.min() > 0.97 > (state["layers.0"][:, :8].T @ strong).norm(dim=0).min()


@pytest.mark.parametrize(
    ("settings", "rank", "told"),
    [
        ({"weights": "none", "variance": 0.8}, 8, r"rank 8 truncates the subspace: at layer 0 it keeps 0\.4\d"),
        ({"weights": "none", "variance": 0.8}, 24, ""),  # the rank has room for what was asked for
        ({}, 8, ""),
        ({"k": 4}, 8, "fewer columns found than the rank: 4 of 8 at layer 0"),
        ({"variance": 0.8}, 8, ""),  # filled by choice
    ],
)
def test_what_does_not_fit_the_rank_is_told(settings: dict[str, Any], rank: int, told: str) -> None:
    start = SAILS(Settings(**settings))
    model, sae, contrast = perfect_world(128)
    _, report = start.prepare(Material(model, saes={0: sae}, contrast=contrast, adapter_config=LoraConfig(r=rank)))
    found = start.warnings(report, rank=rank)
    assert len(found) == bool(told) and all(re.match(told, one) and ";" not in one for one in found)
