import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe, Span
from sails_eval.data.dialogues import Example, Message
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.plan.budget import Budget
from sails_eval.plan.identity import Identity
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.run.folder.records import PreparationCost, SubspaceReport, TrainRecord
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.ledger import MATCHED, ledger, write_ledger
from sails_eval.training.batches import TokenRow
from sails_eval.training.labels import LABELS, labels_used

RECORD: dict[str, Any] = {
    "tokens": 1000,
    "steps": 5,
    "examples": 80,
    "unique_examples": 64,
    "labelled_examples": 64,
    "further_examples": 0,
    "rejected_answers": 0,
    "contrast_examples": 0,
    "flops": 7_000,
    "seconds": 1.5,
    "peak_memory_bytes": 9,
    "trainable_params": 25,
    "total_params": 1000,
    "losses": [1.0],
}


def recipe_of(method: str) -> Recipe:
    """An adapter's starts from something prepared, and costs that."""
    full = method == "full"
    init, parameters = None if full else "sails", "all" if full else "adapter"
    span = Span(low=1e-4, high=1e-2)
    return Recipe.model_validate(
        {"name": method, "description": "", "parameters": parameters, "init": init, "learning_rate": span}
    )


def planned(rates: dict[str, list[float]], seeds: int = 1) -> SubRun:
    """Cells of these methods at these rates."""
    identity = Identity(recipes={method: method for method in rates}, learning_rates=rates)
    recipes = tuple(map(recipe_of, rates))
    return SubRun(Pair(name="p", model="m"), identity=identity, recipes=recipes, seeds=tuple(range(seeds)))


def trained(run: RunFolder, cell: Cell, **changes: Any) -> None:
    """Leave what a cell that has been trained leaves."""
    folder = run.cell(cell)
    folder.path.mkdir(parents=True)
    TrainRecord(**RECORD | changes).write(folder.record.path)


def prepared(run: RunFolder, method: str, seed: int = 0, **cost: Any) -> None:
    SubspaceReport(cost=PreparationCost(**cost)).write(run.subspace_report_file(method, seed))


def test_the_ledger_has_a_row_for_every_cell(tmp_path: Path) -> None:
    run, sub_run = RunFolder(tmp_path), planned({"lora": [1e-2, 1e-3], "full": [1e-2, 1e-3]}, seeds=2)
    for cell in sub_run.all_cells():
        trained(run, cell, tokens=1000 + cell.seed, flops=7_000 if cell.recipe.name == "full" else 5_000)
    for seed in (0, 1):
        prepared(run, "lora", seed, tokens=40 + seed, flops=50, seconds=0.5)
    frame = ledger(run, sub_run)
    assert list(zip(frame["method"], frame["learning_rate"], frame["seed"], strict=True)) == [
        (method, rate, seed) for method in ("full", "lora") for rate in (1e-3, 1e-2) for seed in (0, 1)
    ]
    assert frame["tokens"].tolist() == [1000, 1001] * 4  # seeds may differ, methods may not
    assert frame["flops"].tolist() == [7_000] * 4 + [5_000] * 4
    assert set(frame["trainable_pct"]) == {2.5}
    assert frame["selection_tokens"].tolist() == [0] * 4 + [40, 41] * 2
    assert frame["selection_seconds"].tolist() == [0] * 4 + [0.5] * 4
    write_ledger(tmp_path / "budget.csv", frame)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "budget.csv"), frame)


@pytest.mark.parametrize("column", MATCHED)
@pytest.mark.parametrize("other", [("full", 1e-3), ("lora", 1e-2)])
def test_unequal_budgets_of_a_seed_are_an_error(tmp_path: Path, column: str, other: tuple[str, float]) -> None:
    method, rate = other
    run, sub_run = RunFolder(tmp_path), planned({"lora": [1e-3], method: list({1e-3, rate})})
    for cell in sub_run.all_cells():
        more = (cell.recipe.name, cell.learning_rate) == other
        trained(run, cell, **{column: RECORD[column] + more})
    prepared(run, "lora")
    with pytest.raises(ValueError, match=f"budgets differ: {column} is not the same"):
        ledger(run, sub_run)


def test_a_method_with_examples_of_its_own_is_matched_in_itself(tmp_path: Path) -> None:
    run, sub_run = RunFolder(tmp_path), planned({"full": [1e-3], "more": [1e-3, 1e-2]})
    sub_run = replace(sub_run, budget=Budget(examples={"more": 99}))
    for cell in sub_run.all_cells():
        trained(run, cell, unique_examples=99 if cell.recipe.name == "more" else 64)
    prepared(run, "more")
    assert ledger(run, sub_run)["unique_examples"].tolist() == [64, 99, 99]
    trained(run, sub_run.cell(sub_run.recipes[1], 0.1, 0))
    with pytest.raises(ValueError, match="budgets differ: unique_examples"):
        ledger(run, replace(sub_run, identity=planned({"full": [1e-3], "more": [1e-3, 0.1]}).identity))


@pytest.mark.parametrize("column", ["flops", "seconds", "peak_memory_bytes", "trainable_params"])
def test_what_a_method_costs_may_differ(tmp_path: Path, column: str) -> None:
    run, sub_run = RunFolder(tmp_path), planned({"lora": [1e-3], "full": [1e-3]})
    lora, full = sub_run.all_cells()
    trained(run, lora)
    trained(run, full, **{column: 3})
    prepared(run, "lora")
    assert ledger(run, sub_run)[column].tolist() == [3, RECORD[column]]


def test_labels_are_counted_once_however_often_they_are_seen() -> None:
    a, b, c = (Example((Message("user", name),), "yes", rejected="no") for name in "abc")
    contrast = Contrast(sources=frozenset({a.label, b.label}), rejected=frozenset({a.rejected_label, b.rejected_label}))
    rows = [TokenRow([], [], example=one) for one in (a, c, a, Example((Message("user", "d"),), "yes"))]

    def used(contrast: Contrast, *, pairs: bool = False) -> list[int]:
        return [labels_used(rows, contrast, pairs=pairs)[key] for key in LABELS]

    assert LABELS == ("labelled_examples", "further_examples", "rejected_answers", "contrast_examples")
    assert used(Contrast()) == [3, 0, 0, 0] and used(Contrast(), pairs=True) == [3, 0, 2, 0]
    assert used(contrast) == [4, 1, 2, 2] and used(contrast, pairs=True) == [4, 1, 3, 2]


def test_what_is_matched() -> None:
    assert set(MATCHED) >= {"tokens", "steps", "examples", "unique_examples"}


def test_a_record_is_read_back(tmp_path: Path) -> None:
    run, (cell,) = RunFolder(tmp_path), planned({"lora": [1e-3]}).all_cells()
    trained(run, cell)
    assert json.loads((run.cell(cell).path / "train.json").read_text()) == RECORD | {"schema": 1}
    assert run.cell(cell).record() == TrainRecord(**RECORD)
