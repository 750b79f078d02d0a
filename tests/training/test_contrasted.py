"""What initialisations may contrast: so many labelled examples, by default those alone that the cell sees."""

from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.files import write_jsonl
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import read_contrast, read_requests
from sails_eval.data.sample import TrainingSample
from sails_eval.methods import load_initialisation
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.methods.subspace.prepare import start_seed
from sails_eval.models.base import Base
from sails_eval.training.batches import encoded_training, lay_out
from sails_eval.training.contrasted import contrasted
from sails_eval.training.labels import labels_used

REQUESTS: dict[str, Any] = {"contrast": "requests", "positions": "prompt_last"}


def seen(pair: Pair, base: Base, method: str, seed: int | None = 0, **settings: Any) -> Contrast:
    recipe = load_recipe(method)
    recipe = recipe.model_copy(update={"settings": {**recipe.settings, **settings}})
    return contrasted(load_initialisation(recipe), pair, recipe, seed=seed, tokenizer=base.tokenizer)


def with_file(pair: Pair, n: int | str) -> Pair:
    return pair.model_copy(update={"contrast_examples": n})


@pytest.mark.parametrize("method", ["sails", "activation-svd-r", "lda", "eva", "refusal-direction", "dpo-sails"])
def test_by_default_nothing_is_contrasted_that_the_cell_does_not_train_on(
    testbed_pair: Pair, testbed_base: Base, method: str
) -> None:
    pair, rows = testbed_pair, encoded_training(testbed_base.tokenizer, testbed_pair)
    objective = load_recipe(method).objective
    order = lay_out(rows, pair, seed=1, objective=objective)
    labels = labels_used([rows[i] for i in order], seen(pair, testbed_base, method, 1), pairs=objective == "dpo")
    assert labels["labelled_examples"] == len(set(order)) and not labels["further_examples"]
    assert 0 < labels["contrast_examples"] <= len(set(order))


def test_pairs_are_those_of_the_samples_harmful_requests(testbed_pair: Pair, testbed_base: Base) -> None:
    rows = encoded_training(testbed_base.tokenizer, testbed_pair)
    harmful = {rows[i].example.label for i in lay_out(rows, testbed_pair, seed=0) if rows[i].group == "harmful"}
    found = seen(testbed_pair, testbed_base, "sails")
    assert found.paired and found.sources == harmful and len(found.aligned) == len(found.rejected) == len(harmful)


def test_requests_are_those_of_the_sample_by_their_group(testbed_pair: Pair, testbed_base: Base) -> None:
    rows = encoded_training(testbed_base.tokenizer, testbed_pair)
    sample = set(lay_out(rows, testbed_pair, seed=0))
    found = seen(testbed_pair, testbed_base, "sails", **REQUESTS)
    assert not found.paired and not found.rejected and len(found.sources) == len(sample)
    assert len(found.unaligned) == sum(rows[i].group == "harmful" for i in sample)
    assert len(found.aligned) == len(sample) - len(found.unaligned)


def test_where_only_aligned_texts_are_looked_at_they_are_those_that_are_trained_on(
    testbed_pair: Pair, testbed_base: Base
) -> None:
    found = seen(testbed_pair, testbed_base, "eva")
    rows = encoded_training(testbed_base.tokenizer, testbed_pair)
    assert len(found.aligned) == len(set(lay_out(rows, testbed_pair, seed=0))) and not found.unaligned


def test_seeds_look_at_samples_of_their_own(testbed_pair: Pair, testbed_base: Base) -> None:
    one, again, other = (seen(testbed_pair, testbed_base, "sails", seed) for seed in (0, 0, 1))
    assert one == again and one.sources != other.sources


def test_examples_of_a_file_are_drawn_by_the_seed_up_to_all(testbed_pair: Pair, testbed_base: Base) -> None:
    assert testbed_pair.contrast is not None and testbed_pair.requests is not None
    few, whole = with_file(testbed_pair, 5), with_file(testbed_pair, "all")
    one, again, other = (seen(few, testbed_base, "sails", seed) for seed in (0, 0, 1))
    assert one == again and len(one.aligned) == len(one.unaligned) == 5 and one.sources != other.sources
    assert len(seen(few, testbed_base, "eva").aligned) == 5
    asked = seen(few, testbed_base, "sails", **REQUESTS)
    assert len(asked.aligned) == len(asked.unaligned) == 5
    assert len(seen(whole, testbed_base, "sails", None).aligned) == len(read_contrast(testbed_pair.contrast).examples)
    every = seen(whole, testbed_base, "sails", None, **REQUESTS)
    assert len(every.unaligned) == len(read_requests(testbed_pair.requests).harmful)
    with pytest.raises(UserError, match=r"--contrast-examples 999: more than the \d+ pairs of .*contrast.jsonl"):
        seen(with_file(testbed_pair, 999), testbed_base, "sails")


def test_a_seed_matters_where_it_changes_what_is_looked_at(testbed_pair: Pair) -> None:
    starts = {
        (method, n): start_seed(with_file(testbed_pair, n), load_recipe(method), 3)
        for method in ("sails", "eva", "random-orthonormal", "lora")
        for n in ("sample", 5, "all")
    }
    assert {key for key, seed in starts.items() if seed == 3} == {
        (method, n) for method in ("sails", "eva") for n in ("sample", 5)
    }
    assert set(starts.values()) == {None, 3}


def example(group: str, rejected: str | None = "no") -> Example:
    return Example((Message("user", group),), "yes", rejected=rejected, group=group)


def test_what_a_sample_has_to_contrast() -> None:
    told = TrainingSample((example("harmful"), example("0:mixed/harmful", None), example("safe")), tells=True)
    assert [one.group for one in told.pairs] == ["harmful"]
    assert [one.group for one in told.requests(harmful=True)] == ["harmful", "0:mixed/harmful"]
    untold = TrainingSample((example("a"), example("", None)))
    assert [one.group for one in untold.pairs] == ["a"]
    untold.check("responses", method="m", where="x")
    for sample, which, complaint in (
        (
            TrainingSample((example("a", None),)),
            "responses",
            "'m' contrasts the answers .* and x has no rejected answers",
        ),
        (
            TrainingSample((example("safe"),), tells=True),
            "responses",
            "x has no harmful requests with rejected answers",
        ),
        (untold, "requests", r"x needs both harmful ones \(group: harmful\) and others"),
        (TrainingSample((example("harmful"),), tells=True), "requests", "x needs both"),
    ):
        with pytest.raises(UserError, match=complaint):
            sample.check(which, method="m", where="x")


def test_a_seed_whose_sample_has_nothing_to_contrast_is_told(
    testbed_pair: Pair, testbed_base: Base, tmp_path: Path
) -> None:
    rows = [{"prompt": f"p {i}", "response": "yes", "rejected": "no", "group": "safe"} for i in range(20)]
    write_jsonl(tmp_path / "train.jsonl", [*rows, {**rows[0], "group": "harmful"}])
    pair = testbed_pair.model_copy(update={"train": tmp_path / "train.jsonl", "examples": 4})
    with pytest.raises(UserError, match=r"the sample of seed \d has no harmful requests with rejected answers"):
        for seed in range(5):
            seen(pair, testbed_base, "sails", seed)
