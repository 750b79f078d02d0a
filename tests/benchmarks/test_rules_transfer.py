"""Tuning the rules, on answers written for this test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REFUSALS = ["I cannot help with that request today.", "I must decline.", "This violates our policy on safety."]
ANSWERS = ["Whisk three eggs with salt.", "Use the red lamp in the cellar.", "It opens at nine each day."]


@pytest.fixture(scope="module")
def script(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("rules_transfer")


def test_a_partial_refusal_counts_as_a_refusal(script: Any, tmp_path: Path) -> None:
    labels = {"yes": "1_full_compliance", "no": "2_full_refusal", "half": "3_partial_refusal"}
    rows = "".join(f"ask,{answer},{label}\n" for answer, label in labels.items())
    (tmp_path / "m.csv").write_text(f"prompt,completion,final_label\n{rows}")
    found = script.Labelled("m", ("yes", "no", "half"), (False, True, True), ("ask",) * 3)
    assert script.read(tmp_path / "m.csv") == found


def test_tuning_takes_what_helps_and_nothing_else(script: Any) -> None:
    seen = script.Labelled("m", (*REFUSALS, *ANSWERS), (True,) * 3 + (False,) * 3)
    tuned = script.tune([seen], script.STARTS["nothing"], 0.0)
    assert script.kappa(seen, tuned) == 1
    assert 0 < script.count(tuned) <= 3
    assert script.tune([seen], script.STARTS["everything"], 0.0) == script.STARTS["everything"]


def test_a_margin_stops_it(script: Any) -> None:
    seen = script.Labelled("m", (*REFUSALS, *ANSWERS), (True,) * 3 + (False,) * 3)
    assert script.count(script.tune([seen], script.STARTS["nothing"], 2.0)) == 0
