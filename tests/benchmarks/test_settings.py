from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from sails_eval.boards.rate_choice import choose
from sails_eval.boards.scoring import ALL
from sails_eval.core.files import write_jsonl, write_text
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.records import Result, Split
from sails_eval.core.stats import Sample
from sails_eval.methods.sails import SAILS
from sails_eval.run.folder.run_folder import RunFolder

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
            choices = field.annotation.__args__  # type: ignore[union-attr]
            assert tried == set(choices) if key != "k" else "rank" in tried, key


def test_what_the_pair_cannot_do_is_left_out_with_the_reason(script: Any, testbed_pair: Pair, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    bare = testbed_pair.model_copy(update={"train": tmp_path / "pairs.jsonl", "sae_sets": {}})
    variants, lacking = script.possible([testbed_pair, bare])
    assert len(variants) + len(lacking) == len(script.VARIANTS)
    assert lacking["sails-saes-narrow"] == "the pair has no SAEs of that name"
    assert lacking["sails-saes-one-uncovered-skip"] == "the pair has no SAEs of that name"
    told = "the training data do not say which requests are harmful"
    assert lacking["sails-contrast-requests-positions-all"] == told
    able = testbed_pair.model_copy(update={"sae_sets": {"narrow": (), "one": bare.saes}})
    assert script.possible([able])[1] == {
        "sails-saes-undertrained": "the pair has no SAEs of that name",
        "sails-saes-one-uncovered-nearest_below": "every layer has an SAE of its own",
        "sails-saes-one-uncovered-skip": "every layer has an SAE of its own",
    }


def test_variants_can_be_chosen_by_what_they_change(script: Any, testbed_pair: Pair) -> None:
    assert script.possible([testbed_pair], ["score", "fill"]) == (
        [
            *({"score": score} for score in ("abs", "positive", "negative", "relative")),
            {"variance": 0.8},  # beside which the fill is changed
            {"variance": 0.8, "fill": "none"},
        ],
        {},
    )


def test_scores_are_those_on_validation_at_the_rate_that_the_other_seeds_choose(script: Any, tmp_path: Path) -> None:
    scores = {0.1: (0.5, 0.9, 0.4), 0.2: (0.6, 0.5, 0.6)}  # of the seeds; the middle one is for 0.1, the others for 0.2
    choice = choose("sails", {rate: dict(enumerate(of_seed)) for rate, of_seed in scores.items()})
    for name, more in (("a", 0.0), ("b", 0.1)):
        results = [
            Result("sails", seed, rate, split, "testbed_safe", ALL, "helpfulness", value, 48, 0)
            for rate, of_seed in scores.items()
            for seed, score in enumerate(of_seed)
            for split, value in zip(get_args(Split), (score + more, 0.0), strict=True)
        ]
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        write_text(folder.description_file, "{}")
        folder.write_results(results, {"sails": choice})
    (sample,) = script.validated(RunFolder(tmp_path), "helpfulness").values()
    assert sample.seeds == (0, 1, 2) and sample.unsettled == (True,)
    assert sample.values[0] == pytest.approx((0.55, 0.55, 0.45))  # the mean over pairs


def test_the_page_has_a_row_for_every_variant(script: Any) -> None:
    scores = {"sails": (0.5, 0.6, 0.7), "lora": (0.4, 0.55, 0.61), "sails-variance-0.8": (0.51, 0.6, 0.68)}
    scores["sails-literal"] = scores["lora"]
    scores |= {"sails-variance-0.8-fill-none": (0.61, 0.7, 0.79), "sails-k-128": scores["sails"]}
    samples = {method: Sample((values,), (0, 1, 2), (False,)) for method, values in scores.items()}
    variants = [{"variance": 0.8}, {"variance": 0.8, "fill": "none"}, {"k": 128}]
    text = script.page(samples, variants, {"sails-fill-none": "why"}, command="c", metric="alignment score")
    assert "| nothing (`sails`) | 0.600 [0.352, 0.848] | – | – |" in text
    assert "| `lora`, no basis at all | 0.520 [" in text and "| -0.080 [" in text
    assert (
        "| `fill: none` beside `variance: 0.8` | 0.700 [" in text and "| +0.103 [" in text
    )  # not + 0.100, as from `sails`
    assert "| `k: 128` | 0.600 [0.352, 0.848] | the same models | – |" in text and "method over 4 rows" in text
    assert "| `variance: 0.8` | 0.597 [" in text and "- `sails-fill-none`: why." in text
