import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sails_eval.core.recipe import Recipe, Span
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.plan.setup import Cell
from sails_eval.run.folder.layout import train_record
from sails_eval.run.report.ledger import MATCHED, ledger, write_ledger
from sails_eval.training.batches import TokenRow
from sails_eval.training.labels import labels_used

RECORD: dict[str, Any] = {
    "tokens": 1000,
    "steps": 5,
    "examples": 80,
    "unique_examples": 64,
    "labelled_examples": 64,
    "further_examples": 0,
    "rejected_answers": 0,
    "flops": 7_000,
    "seconds": 1.5,
    "peak_memory_bytes": 9,
    "trainable_params": 25,
    "total_params": 1000,
    "losses": [1.0],
}


def trained(run: Path, method: str, rate: float, seed: int, **changes: Any) -> Cell:
    """A cell that has been trained."""
    parameters: Any = "all" if method == "full" else "adapter"
    span = Span(low=1e-4, high=1e-2)
    recipe = Recipe(name=method, description="", parameters=parameters, learning_rate=span)
    cell = Cell(recipe, rate, seed, fingerprint=f"{method}{rate}{seed}")
    (run / cell.folder).mkdir(parents=True)
    (run / cell.folder / "train.json").write_text(json.dumps(RECORD | changes))
    return cell


def test_the_ledger_has_a_row_for_every_cell(tmp_path: Path) -> None:
    cells = [
        trained(tmp_path, method, rate, seed, tokens=1000 + seed, flops=7_000 if method == "full" else 5_000)
        for method in ("lora", "full")
        for rate in (1e-2, 1e-3)
        for seed in (1, 0)
    ]
    frame = ledger(tmp_path, cells, {"lora": {"tokens": 40, "flops": 50, "seconds": 0.5}})
    assert list(zip(frame["method"], frame["learning_rate"], frame["seed"], strict=True)) == [
        (method, rate, seed) for method in ("full", "lora") for rate in (1e-3, 1e-2) for seed in (0, 1)
    ]
    assert frame["tokens"].tolist() == [1000, 1001] * 4  # seeds may differ, methods may not
    assert frame["flops"].tolist() == [7_000] * 4 + [5_000] * 4
    assert set(frame["trainable_pct"]) == {2.5}
    assert frame["selection_tokens"].tolist() == [0] * 4 + [40] * 4
    assert frame["selection_seconds"].tolist() == [0] * 4 + [0.5] * 4
    write_ledger(tmp_path / "budget.csv", frame)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "budget.csv"), frame)


@pytest.mark.parametrize("column", MATCHED)
@pytest.mark.parametrize("other", [("full", 1e-3), ("lora", 1e-2)])
def test_unequal_budgets_of_a_seed_are_an_error(tmp_path: Path, column: str, other: tuple[str, float]) -> None:
    cells = [
        trained(tmp_path, "lora", 1e-3, 0),
        trained(tmp_path, *other, 0, **{column: RECORD[column] + 1}),
    ]
    with pytest.raises(ValueError, match=f"budgets differ: {column} is not the same"):
        ledger(tmp_path, cells, {})


@pytest.mark.parametrize("column", ["flops", "seconds", "peak_memory_bytes", "trainable_params"])
def test_what_a_method_costs_may_differ(tmp_path: Path, column: str) -> None:
    cells = [trained(tmp_path, "lora", 1e-3, 0), trained(tmp_path, "full", 1e-3, 0, **{column: 3})]
    assert ledger(tmp_path, cells, {})[column].tolist() == [3, RECORD[column]]


def test_labels_are_counted_once_however_often_they_are_seen() -> None:
    contrast = Contrast(sources=frozenset({"a", "b"}), rejected=frozenset({"a-", "b-"}))
    rows = [TokenRow([], [], source=name, rejected_source=f"{name}-") for name in "aca"] + [
        TokenRow([], [], source="d")
    ]
    assert labels_used(rows, Contrast()) == {"labelled_examples": 3, "further_examples": 0, "rejected_answers": 0}
    assert labels_used(rows, Contrast(), pairs=True) == {
        "labelled_examples": 3,
        "further_examples": 0,
        "rejected_answers": 2,
    }
    assert labels_used(rows, contrast) == {"labelled_examples": 4, "further_examples": 1, "rejected_answers": 2}
    assert labels_used(rows, contrast, pairs=True) == {
        "labelled_examples": 4,
        "further_examples": 1,
        "rejected_answers": 3,
    }


def test_what_is_matched() -> None:
    assert set(MATCHED) >= {"tokens", "steps", "examples", "unique_examples"}


def test_a_record_is_read_back(tmp_path: Path) -> None:
    assert train_record(tmp_path, trained(tmp_path, "lora", 1e-3, 0)) == RECORD
