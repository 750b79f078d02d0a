from collections.abc import Callable
from typing import Any

import pytest

from sails_eval.methods.subspace.recovery import overlap


@pytest.fixture(scope="module")
def script(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("synthetic_dictionaries")


def shares(script: Any, dictionary: str) -> dict[str, tuple[float, float]]:
    one = script.world(dictionary, 128, 0)
    found = script.bases(one, 32, 8)
    return {name: (overlap(write, one.truth), script.read_share(one, read)) for name, write, read in found}


def test_of_a_perfect_dictionary_the_default_finds_all_and_the_papers_reading_half(script: Any) -> None:
    perfect, calm = shares(script, "perfect"), shares(script, "calm")
    assert perfect["`sails`"][0] > 0.99 and perfect["`sails-literal`"][0] < 0.6
    assert perfect["`readers: encoder` (`sails-encoder`)"][1] > 1.5 * perfect["`sails`"][1]
    assert calm["`activation-svd-r`"][0] > perfect["`activation-svd-r`"][0] + 0.1  # which noise hides from it
    assert all(-1e-5 <= share <= 1 + 1e-5 for row in (*perfect.values(), *calm.values()) for share in row)


@pytest.mark.parametrize("dictionary", ["split", "absorbed"])
def test_parts_of_a_feature_are_features_of_their_own(script: Any, dictionary: str) -> None:
    one = script.world(dictionary, 128, 0)
    n = script.Stream(dictionary, 128, script.torch.Generator()).n
    assert len(one.sae.W_dec) == n + script.TRUE * script.PARTS == one.features["aligned"].shape[1]
    alone, parts = one.features["aligned"][:, : script.TRUE], one.features["aligned"][:, n:]
    assert parts.max() > 0 and (alone.abs().max() < 1e-5) == (dictionary == "split")
    cosine = one.sae.W_dec[n:].unflatten(0, (script.TRUE, script.PARTS)) @ one.sae.W_dec[: script.TRUE].T
    own = script.torch.stack([cosine[i, :, i] for i in range(script.TRUE)])
    assert own.mean().item() == pytest.approx(0.9 if dictionary == "split" else 0.7, abs=0.05)
