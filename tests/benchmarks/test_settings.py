from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.stats import Sample
from sails_eval.methods.sails import SAILS

Settings = SAILS.Settings


@pytest.fixture(scope="module")
def script(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("settings")


def test_every_variant_is_a_recipe_that_changes_one_setting(script: Any, tmp_path: Path) -> None:
    default = Settings().model_dump()
    recipes = [load_recipe(path) for path in script.write_recipes(script.VARIANTS, tmp_path)]
    assert len({recipe.name for recipe in recipes}) == len(script.VARIANTS)
    changes = []
    for recipe, variant in zip(recipes, script.VARIANTS, strict=True):
        values = Settings(**recipe.settings).model_dump()
        assert {key: value for key, value in values.items() if value != default[key]} == variant
        changed = variant.keys() - script.reference_of(variant).keys()
        assert len(changed - {"positions"}) == 1 or changed == {"positions"}
        changes += [key for key in changed if changed == {key} or key != "positions"]
    elsewhere = script.OWN_RECIPES
    assert {*changes, *elsewhere} == set(default)  # every setting is there, every value of those that list them
    for key, field in Settings.model_fields.items():
        if hasattr(field.annotation, "__args__") and key != "saes":
            tried = {variant.get(key, default[key]) for variant in (*script.VARIANTS, elsewhere)}
            assert tried == set(field.annotation.__args__), key  # type: ignore[union-attr]


def test_what_the_pair_cannot_do_is_left_out_with_the_reason(script: Any, testbed_pair: Pair) -> None:
    bare = testbed_pair.model_copy(update={"requests": None, "sae_sets": {}})
    variants, lacking = script.possible(bare)
    assert len(variants) + len(lacking) == len(script.VARIANTS)
    assert lacking["sails-saes-narrow"] == "the pair has no SAEs of that name"
    assert lacking["sails-saes-half-uncovered-skip"] == "the pair has no SAEs of that name"
    assert lacking["sails-contrast-requests-positions-all"] == "the pair has no file of requests"
    able = bare.model_copy(update={"requests": Path("r"), "sae_sets": {"narrow": (), "half": bare.saes}})
    assert script.possible(able)[1] == {
        "sails-saes-undertrained": "the pair has no SAEs of that name",
        "sails-saes-half-uncovered-nearest_below": "every layer has a SAE of its own",
        "sails-saes-half-uncovered-skip": "every layer has a SAE of its own",
    }


def test_the_page_has_a_row_for_every_variant(script: Any, testbed_pair: Pair) -> None:
    scores = {"sails": (0.5, 0.6, 0.7), "lora": (0.4, 0.55, 0.61), "sails-k-8": (0.51, 0.6, 0.68)}
    scores |= {"sails-k-8-fill-none": (0.61, 0.7, 0.79), "sails-k-128": scores["sails"]}
    samples = {method: Sample((values,), (0, 1, 2), (False,)) for method, values in scores.items()}
    variants = [{"k": 8}, {"k": 8, "fill": "none"}, {"k": 128}]
    text = script.page(samples, variants, {"sails-fill-none": "why"}, command="c", pair=testbed_pair)
    assert "| nothing (`sails`) | 0.600 [0.352, 0.848] | – | – |" in text
    assert "| `lora`, no basis at all | 0.520 [" in text and "| -0.080 [" in text
    assert "| `fill: none` beside `k: 8` | 0.700 [" in text and "| +0.103 [" in text  # not + 0.100, as from `sails`
    assert "| `k: 128` | 0.600 [0.352, 0.848] | the same models | – |" in text and "method over 3 rows" in text
    assert "| `k: 8` | 0.597 [" in text and "- `sails-fill-none`: why." in text
