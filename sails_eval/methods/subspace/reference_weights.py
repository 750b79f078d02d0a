"""What a finished, aligned model of a pair's `references` adds to the base model's weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.pair import Pair
from sails_eval.methods import adapted_modules
from sails_eval.models.adapters import lying_as, target_modules
from sails_eval.models.base import load_adapter
from sails_eval.models.hub import fetch
from sails_eval.models.saved_adapter import CONFIG


def alignment(model: Any, pair: Pair, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """What a reference adds to each target module: its name in the bare model, and the difference [d_out, d_in].

    Raises UserError where the reference cannot be loaded, or has no weights for a target module.
    """
    with as_user_error(f"reference '{name}' of pair '{pair.name}' cannot be loaded", "correct the key 'references'"):
        folder = fetch(pair.references[name])
        found = dict(_of_adapter(model, folder) if (folder / CONFIG).is_file() else _of_weights(model, pair, folder))
    if missing := [module for module in target_modules(model, pair) if module not in found]:
        raise UserError(
            f"reference '{name}' of pair '{pair.name}' has no weights for {len(missing)} target modules, "
            f"such as {missing[0]}; name another in 'references'"
        )
    yield from sorted(found.items())


def _of_adapter(model: Any, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    adapted = load_adapter(model, folder)
    try:
        for name, module in adapted_modules(adapted):
            added = module.get_delta_weight("default").detach().float().cpu()
            yield name, lying_as(module.get_base_layer(), added)
    finally:
        adapted.unload()


def _of_weights(model: Any, pair: Pair, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    modules = target_modules(model, pair)
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - not a dict
                if (name := key.removesuffix(".weight")) in modules:
                    added = weights.get_tensor(key).float() - modules[name].weight.detach().float().cpu()
                    yield name, lying_as(modules[name], added)
