"""Which layers get a basis: known before a weight is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sails_eval.core.pair import SaeSource
from sails_eval.core.schema import read_mapping


def sae_layer(source: SaeSource) -> int | None:
    """The layer whose output a SAE reads, by the number in its hook's name, or in its id; None where neither tells."""
    if source.layer is not None:
        return source.layer
    name = source.id or ""
    if source.path is not None:
        told = read_mapping(source.path / "cfg.json")  # JSON is YAML, too
        name = str(told.get("metadata", told).get("hook_name", ""))
    found = re.search(r"\d+", name)
    return int(found.group()) if found else None


def basis_layers(saes: Sequence[SaeSource], layers: int) -> list[int]:
    """The layers of these SAEs, ascending, in a model of so many; all where there is no SAE.

    One that does not tell its layer is taken to be at the last.
    """
    told = {sae_layer(sae) for sae in saes}
    return sorted(layers - 1 if layer is None else layer for layer in told) or list(range(layers))
