"""Where things lie in a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import Split
from sails_eval.plan.setup import Cell
from sails_eval.tasks.library import TaskInfo


def completions_path(folder: Path, split: Split, task: TaskInfo) -> Path:
    return folder / "completions" / split / f"{task.name}.jsonl"


def verdicts_path(folder: Path, split: Split, task: TaskInfo, *, judge: str) -> Path:
    return folder / "verdicts" / judge[:8] / split / f"{task.name}.jsonl"


def subspace_path(run: Path, recipe: Recipe) -> Path:
    return run / "subspace" / f"{recipe.name}.safetensors"


CHECKPOINT = "checkpoint"


def step_folder(folder: Path, step: int) -> Path:
    """Where a cell has what belongs to its checkpoint after a step."""
    return folder / f"step-{step}"


DESCRIPTION = "run.json"


def read_description(folder: Path) -> dict[str, Any]:
    """The run.json of a run folder."""
    return read_json(folder / DESCRIPTION)


def train_record(run: Path, cell: Cell) -> dict[str, Any]:
    """What train.json says of a cell."""
    return read_json(run / cell.folder / "train.json")


def _subspace(run: Path, recipe: Recipe) -> dict[str, Any]:
    """The report on what a recipe's initialisation starts from."""
    return read_json(subspace_path(run, recipe).with_suffix(".json"))


def _folder(run: Path, method: str, seed: int | None, rate: float | None) -> Path:
    """Where a method's answers are."""
    if seed is None:
        return run / "answers" if (run / "answers").is_dir() else run / "cells" / method
    cells = sorted((run / "cells" / method).glob(f"rate-{rate:g}-seed-{seed}-*"))
    if len(cells) != 1:
        raise UserError(f"{run / 'cells' / method}: {len(cells)} folders of rate {rate:g} and seed {seed}, not one")
    return cells[0]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the run's command again to have it made")
    return path
