"""Which layers get a basis: known before a weight is loaded."""

import re
from collections.abc import Sequence

from sails_eval.core.files import json_object, read_json
from sails_eval.core.pair import SaeSource

HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_post|(?:.*\.)?(?:layers|h)\.(\d+)")
"""The names of hooks at the output of a layer, as SAELens records them."""


def sae_layer(source: SaeSource, hook: str | None = None) -> int | None:
    """The layer whose output an SAE reads; None where nothing tells.

    The pair says it, or the name of its hook (if not given, that in its folder), or else the first number in its id.
    """
    if source.layer is not None:
        return source.layer
    if hook is None and source.path is not None and (source.path / "cfg.json").is_file():
        told = read_json(file := source.path / "cfg.json")
        hook = str(json_object(f"{file}: key 'metadata'", told.get("metadata", told)).get("hook_name", ""))
    found = re.search(r"(\d+)", source.id or "") if hook is None else HOOK.fullmatch(hook)
    return int(next(filter(None, found.groups()))) if found else None


def basis_layers(saes: Sequence[SaeSource], layers: int) -> list[int]:
    """The layers of these SAEs, ascending, in a model of so many; all where there is no SAE.

    One that does not tell its layer is taken to be at the last.
    """
    told = {sae_layer(sae) for sae in saes}
    return sorted(layers - 1 if layer is None else layer for layer in told) or list(range(layers))
