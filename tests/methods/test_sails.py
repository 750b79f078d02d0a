from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scipy import stats

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.data.reading import read_contrast
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
    assert choose_features(found, Settings(score=score, k=6)).tolist() == best
    assert choose_features(found, Settings(score=score, k=1)).tolist() == best[:1]


def test_equal_scores_are_settled_by_the_lower_number() -> None:
    assert choose_features(differences([1.0] * 100, [0.0] * 100), Settings(k=5)).tolist() == [0, 1, 2, 3, 4]


def test_t_is_paired_over_pairs_and_welchs_over_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(6, 4, generator=generator, dtype=torch.float64) + i for i in (0, 1))
    rows = {(0, "aligned"): a, (0, "unaligned"): b}
    welch = feature_differences(moments([rows]), 0)
    paired = feature_differences(moments([{**rows, (0, "difference"): a - b}]), 0)
    for found, expected in ((welch, stats.ttest_ind(a, b, equal_var=False)), (paired, stats.ttest_rel(a, b))):
        assert (found.mean / found.error).tolist() == pytest.approx(expected.statistic.tolist(), rel=1e-4)


def test_one_text_has_no_t() -> None:
    one = {(0, kind): Moments.of(torch.rand(1, 4)) for kind in ("aligned", "unaligned", "difference")}
    assert not len(choose_features(feature_differences(one, 0), Settings(score="t")))


@pytest.mark.parametrize(
    ("one", "other", "index"), [([1, 2], [2, 1], 1), ([1, 2], [3], 0), ([1, 2], [2, 3, 4], 0.25), ([], [], None)]
)
def test_the_jaccard_index_is_the_share_that_both_chose(one: list[int], other: list[int], index: float | None) -> None:
    assert jaccard(one, other) == index


# --- from texts to bases -----------------------------------------------------------------------------------------


def contrast_of(pair: Pair, base: Base, n: int) -> Contrast:
    assert pair.contrast is not None
    return encode_contrast(base.tokenizer, read_contrast(pair.contrast).examples[:n], pair.max_length)


@pytest.mark.parametrize("positions", ["response", "first4"])
def test_the_state_holds_a_basis_of_the_chosen_decoder_directions_of_every_layer(
    testbed_pair: Pair, testbed_base: Base, testbed_saes: dict[int, Any], positions: Any
) -> None:
    contrast = contrast_of(testbed_pair, testbed_base, 6)
    settings = Settings(k=10, variance=0.9, positions=positions)
    state, report = get_sails_state_dict(testbed_base.model, testbed_saes, contrast, settings=settings)
    assert list(state) == [f"layers.{layer}" for layer in testbed_saes]
    for layer, sae in testbed_saes.items():
        basis, said = state[f"layers.{layer}"], report[str(layer)]
        m = said["tau_dim"]
        assert basis.shape == (WIDTH, m) and torch.allclose(basis.T @ basis, torch.eye(m), atol=1e-5)
        assert len(set(said["features"])) == len(said["difference"]) == 10
        strength = [abs(value) for value in said["difference"]]
        assert strength == sorted(strength, reverse=True) and strength[-1] > 0
        unit = torch.nn.functional.normalize(sae.W_dec.detach()[said["features"]], dim=1)
        kept, all_but_one = ((unit @ basis[:, :n]).pow(2).sum() / 10 for n in (m, m - 1))
        assert all_but_one < 0.9 <= kept + 1e-5
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
    with pytest.raises(UserError, match="no SAE feature tells the aligned from the unaligned"):
        get_sails_state_dict(testbed_base.model, {0: StandInSae(0)}, same)


def test_no_contrast_is_an_error(testbed_base: Base, testbed_saes: dict[int, Any]) -> None:
    with pytest.raises(UserError, match="SAILS needs contrast data"):
        get_sails_state_dict(testbed_base.model, testbed_saes, Contrast())


def test_a_sae_of_another_width_is_an_error(testbed_base: Base) -> None:
    sae = SimpleNamespace(cfg=SimpleNamespace(d_in=64))
    with pytest.raises(UserError, match=r"width 64, but the model's residual stream has width 128"):
        get_sails_state_dict(testbed_base.model, {0: sae}, Contrast(some_texts(1, 10), some_texts(1, 40)))


def test_the_weights_can_be_initialised_as_with_peft(testbed_base: Base) -> None:
    from peft import LoraConfig, get_peft_model

    state = {"layers.1": torch.linalg.qr(torch.randn(WIDTH, 4)).Q}
    model = get_peft_model(testbed_base.model, LoraConfig(r=4, target_modules=["o_proj"]), adapter_name="mine")
    try:
        initialize_lora_sails_weights(model, state, adapter_name="mine")
        assert torch.equal(
            model.base_model.model.model.layers[1].self_attn.o_proj.lora_B["mine"].weight, state["layers.1"]
        )
        initialize_lora_sails_weights(model, state, adapter_name="mine", settings=Settings(scale="lora"))
        up = model.base_model.model.model.layers[1].self_attn.o_proj.lora_B["mine"].weight
        assert torch.allclose(up.norm(dim=0), torch.tensor(3**-0.5))
    finally:
        model.unload()
