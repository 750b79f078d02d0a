"""What SAEs say of themselves, and so which layers get a basis: known before a weight is loaded."""

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sails_eval.core.pair import SaeSource
from sails_eval.core.paths import made
from sails_eval.core.schema import validate
from sails_eval.models.stored import read_settings

CONFIG = "cfg.json"

HOOK = re.compile(r"blocks\.(\d{1,4})\.hook_resid_post|(?:.*\.)?(?:layers|h|blocks)\.(\d{1,4})")
"""The names of hooks at the output of a layer, as SAELens records them."""


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, from_attributes=True, protected_namespaces=())


class Origin(_Read):
    """What a SAE was trained on."""

    hook_name: str | None = None
    model_name: str | None = None


class Stated(_Read):
    """What a SAE's configuration says that has to fit the model."""

    d_in: int = Field(gt=0)
    d_sae: int = Field(gt=0)
    k: float | None = Field(default=None, gt=0)
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    metadata: Origin = Origin()


def read_stated(folder: Path) -> Stated:
    """What the configuration in a SAE's folder says. Raises UserError that names file and key where it is none."""
    told = read_settings(folder / CONFIG)
    return validate(Stated, {"metadata": told, **told}, where=str(folder / CONFIG))  # old ones have no metadata


def sae_layer(source: SaeSource, hook: str | None = None) -> int | None:
    """The layer whose output an SAE reads; None where nothing tells.

    The pair says it, or the name of its hook (if not given, that in its folder), or else the first number in its id.
    """
    if source.layer is not None:
        return source.layer
    if hook is None and source.path is not None and (source.path / CONFIG).is_file():
        hook = read_stated(source.path).metadata.hook_name or ""
    found = re.search(r"(\d{1,4})", source.id or "") if hook is None else HOOK.fullmatch(hook)
    return int(next(filter(None, found.groups()))) if found else None


def is_made_here(folder: Path) -> bool:
    """Whether a SAE's folder is one in which `sails-eval saes train` keeps those of a pair, which may not be there."""
    return folder.is_relative_to(made() / "saes")


def fix_of(folder: Path, otherwise: str) -> str:
    """What to do about a SAE that is not there."""
    if not is_made_here(folder):
        return otherwise
    command = f"sails-eval saes train --pair {folder.parent.name}"
    return f"train it: {command} (and --texts FILE, if the pair's training data cannot be had)"


def basis_layers(saes: Sequence[SaeSource], layers: int) -> list[int]:
    """The layers of these SAEs, ascending, in a model of so many; all where there is no SAE.

    One that does not tell its layer is taken to be at the last.
    """
    told = {sae_layer(sae) for sae in saes}
    return sorted(layers - 1 if layer is None else layer for layer in told) or list(range(layers))
