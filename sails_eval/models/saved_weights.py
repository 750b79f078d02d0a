"""Whether what was saved of a model, an adapter or whole weights, is all there, as it was written, and finite."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sails_eval.core import checksums
from sails_eval.core.errors import UserError, as_user_error
from sails_eval.models.saved_adapter import CONFIG
from sails_eval.models.stored import shards_of

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
    missing = missing or next((name for name in shards_of(folder) if not (folder / name).is_file()), "")
    if missing:
        raise UserError(f"{folder}: its weights are missing ({missing}); {KNOWN}")
    for shard in shards if not checksums.listing(folder).is_file() else ():
        check_finite(shard, KNOWN)


def check_finite(shard: Path, fix: str) -> None:
    """Raises UserError where a file of weights cannot be read, or has values that are not finite."""
    with as_user_error(f"{shard}: cannot be read", fix), safe_open(shard, framework="pt") as weights:
        strange = [name for name in weights.keys() if not finite(weights.get_tensor(name))]  # noqa: SIM118
    if strange:
        raise UserError(f"{shard}: weight {strange[0]} has values that are not finite; {fix}")


def finite(weight: Any) -> bool:
    """Whether all values of a tensor are numbers."""
    return bool(torch.isfinite(weight.detach()).all())
