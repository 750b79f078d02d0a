"""What was saved is put onto a base model only if it is all there: else the base model itself would answer."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sails_eval.core.checksums import note
from sails_eval.core.errors import UserError
from sails_eval.models.base import applied
from sails_eval.models.saved_weights import check_saved

WEIGHTS = {"a": torch.ones(3), "b": torch.zeros(2, 2)}


@pytest.fixture(params=["adapter", "whole", "shards"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of an adapter, or of a whole model in one file or in two."""
    if request.param == "adapter":
        (tmp_path / "adapter_config.json").write_text("{}")
        save_file(WEIGHTS, tmp_path / "adapter_model.safetensors")
    elif request.param == "whole":
        save_file(WEIGHTS, tmp_path / "model.safetensors")
    else:
        for name, weight in WEIGHTS.items():
            save_file({name: weight}, tmp_path / f"{name}.safetensors")
        index = {"weight_map": {name: f"{name}.safetensors" for name in WEIGHTS}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def last(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[-1]


def not_finite(folder: Path) -> None:
    save_file({"b": torch.tensor([1.0, float("nan")])}, last(folder))


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: last(folder).unlink(), r"its weights are missing \("),
    (lambda folder: last(folder).write_bytes(last(folder).read_bytes()[:-8]), "safetensors: cannot be read"),
    (lambda folder: last(folder).write_bytes(b""), "safetensors: cannot be read"),
    (not_finite, "weight b has values that are not finite"),
]


@pytest.mark.parametrize(("damage", "told"), DAMAGES)
@pytest.mark.parametrize("hashed", [False, True])
def test_damaged_weights_are_refused_with_their_name(
    saved: Path, damage: Callable[[Path], Any], told: str, hashed: bool
) -> None:
    check_saved(saved)
    if hashed:
        note(saved)
        check_saved(saved)
    damage(saved)
    with pytest.raises(UserError, match="changed or damaged since it was written" if hashed else told) as error:
        check_saved(saved)
    assert str(saved) in str(error.value) and "train it again" in str(error.value)


def test_a_folder_without_weights_is_not_answered_for_by_the_base_model(tmp_path: Path) -> None:
    base: Any = SimpleNamespace(model=None)
    with pytest.raises(UserError, match="its weights are missing"), applied(base, tmp_path):
        pass
