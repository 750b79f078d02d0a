"""Whether what was saved of a model, an adapter or whole weights, is all there, as it was written, and finite."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from sails_eval.core import checksums
from sails_eval.core.errors import UserError, first_line
from sails_eval.core.files import read_json
from sails_eval.models.saved_adapter import CONFIG

KNOWN = "give the run's command again to train it again; if it is a model of your own, save it again"


def check_saved(folder: Path) -> None:
    """See that the weights in a folder can be put onto a base model, which would else answer in their place.

    Those with hashes beside them (as a run trains them) are compared with these, the others are read.

    Raises:
        UserError: a file is missing, changed, cannot be read or has values that are not finite.
    """
    checksums.check(folder, f"{KNOWN}; if you changed it on purpose, delete {checksums.listing(folder)}")
    shards = sorted(folder.glob("adapter_model.safetensors" if (folder / CONFIG).is_file() else "*.safetensors"))
    missing = "" if shards else "*.safetensors"
    if (index := folder / "model.safetensors.index.json").is_file():
        named = {str(name) for name in read_json(index).get("weight_map", {}).values()}
        missing = missing or next((name for name in sorted(named) if not (folder / name).is_file()), "")
    if missing:
        raise UserError(f"{folder}: its weights are missing ({missing}); {KNOWN}")
    for shard in shards if not checksums.listing(folder).is_file() else ():
        _check_finite(shard)


def _check_finite(shard: Path) -> None:
    try:
        with safe_open(shard, framework="pt") as weights:
            strange = [name for name in weights.keys() if not finite(weights.get_tensor(name))]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{shard}: cannot be read ({first_line(error)}); {KNOWN}") from error
    if strange:
        raise UserError(f"{shard}: weight {strange[0]} has values that are not finite; {KNOWN}")


def finite(weight: Any) -> bool:
    """Whether all values of a tensor are numbers."""
    return bool(torch.isfinite(weight.detach()).all())
