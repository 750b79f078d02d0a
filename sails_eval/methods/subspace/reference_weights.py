"""What a finished, aligned model of a pair's `references` adds to the base model's weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.pair import Pair
from sails_eval.methods import adapted_modules
from sails_eval.models.base import with_adapter
from sails_eval.models.hub import fetch
from sails_eval.models.saved_adapter import CONFIG


def alignment(model: Any, pair: Pair, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """What a reference adds to each target module: its name in the bare model, and the difference [d_out, d_in].

    Raises UserError where the reference cannot be loaded, or has no weights for a target module.
    """
    try:
        folder = fetch(pair.references[name])
    except (OSError, ValueError) as error:
        raise UserError(
            f"reference '{name}' of pair '{pair.name}' cannot be loaded: {first_line(error)}; correct the pair's key "
            "'references'"
        ) from error
    found = dict(_of_adapter(model, folder) if (folder / CONFIG).is_file() else _of_weights(model, pair, folder))
    if missing := [module for module in target_modules(model, pair) if module not in found]:
        raise UserError(
            f"reference '{name}' of pair '{pair.name}' has no weights for {len(missing)} target modules, "
            f"such as {missing[0]}; name another in 'references'"
        )
    yield from sorted(found.items())


def target_modules(model: Any, pair: Pair) -> dict[str, torch.nn.Linear]:
    """The bare model's modules that adapters go onto, by name."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name: module for name, module in linear.items() if name.rsplit(".", 1)[-1] in pair.target_modules}


def _of_adapter(model: Any, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    adapted = with_adapter(model, folder)
    try:
        for name, module in adapted_modules(adapted):
            yield name, module.get_delta_weight("default").detach().float().cpu()
    finally:
        adapted.unload()


def _of_weights(model: Any, pair: Pair, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    modules = target_modules(model, pair)
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - not a dict
                if (name := key.removesuffix(".weight")) in modules:
                    yield name, weights.get_tensor(key).float() - modules[name].weight.detach().float().cpu()
