"""What a person chooses of a learned judge. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sails_eval.core.errors import UserError
from sails_eval.core.files import check_folder

if TYPE_CHECKING:
    from sails_eval.judges.learned.features import Features

CONFIDENCE = 0.8
LAYER = 16


def features_of(text: str, layer: int | None) -> Features:
    """The features `ngrams` or `hf:MODEL`. Raises UserError for others, and for a layer of what has none."""
    from sails_eval.judges.learned.features import HiddenStates, Ngrams

    kind, _, model = text.partition(":")
    if kind == "hf" and model:
        return HiddenStates(model, layer or LAYER)
    if text != "ngrams":
        raise UserError(f"--features {text}: expected ngrams or hf:MODEL")
    if layer is not None:
        raise UserError("--layer: n-grams have no layers; give --features hf:MODEL, or leave it out")
    return Ngrams()


def check_out(folder: Path) -> None:
    """Raise UserError where the judge cannot be written, or others' files are in its folder."""
    from sails_eval.judges.learned.classifier import FILE

    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / FILE).is_file():
        raise UserError(f"--out {folder}: holds other files; give a new folder")
