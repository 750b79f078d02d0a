"""Loading SAEs, all through SAELens: from a folder that it saved, or from a release of its registry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from safetensors import SafetensorError

from sails_eval.config import Pair, SaeSource
from sails_eval.errors import UserError, first_line


def load_saes(pair: Pair, model: Any, name: str | None = None) -> dict[int, Any]:
    """The pair's SAEs by the layer of `model` whose output they read, ascending, on the model's device.

    `name` is one of the pair's further sets. Raises UserError where there is none of that name, a SAE cannot be
    loaded, does not fit, its layer is unknown, or two are of the same layer.
    """
    saes: dict[int, Any] = {}
    for source in pair.sae_sources(name):
        sae = _load(source).to(model.device).eval()
        layer = source.layer if source.layer is not None else _layer(source, sae)
        if layer in saes:
            raise UserError(f"two SAEs are given for layer {layer}; keep one")
        saes[layer] = sae
    check_widths(model, saes)
    return dict(sorted(saes.items()))


def check_widths(model: Any, saes: Mapping[int, Any]) -> None:
    """Raises UserError where a SAE is not of the model's width or belongs to a layer that the model lacks."""
    config = model.config.get_text_config()
    for layer, sae in saes.items():
        if sae.cfg.d_in != config.hidden_size:
            raise UserError(
                f"SAE of layer {layer} reads vectors of width {sae.cfg.d_in}, but the model's residual stream has "
                f"width {config.hidden_size}; take SAEs that were trained on this model"
            )
        if layer >= config.num_hidden_layers:
            raise UserError(f"SAE of layer {layer}: the model has {config.num_hidden_layers} layers, counted from 0")


def _load(source: SaeSource) -> Any:
    from sae_lens import SAE  # takes seconds to import

    if source.path is not None and not (source.path / "cfg.json").is_file():
        raise UserError(f"SAE '{source.path}': no cfg.json there; give a folder that SAELens saved")
    if source.path is None and not (source.release and source.id):
        raise UserError("a SAE needs a 'path', or a 'release' and an 'id'")
    try:
        if source.path is not None:
            return SAE.load_from_disk(str(source.path))
        return SAE.from_pretrained(source.release, source.id)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"SAE '{source.path or source.name}': cannot load it: {first_line(error)}") from error


def _layer(source: SaeSource, sae: Any) -> int:
    """The layer from the hook's name, as SAELens records it: `blocks.5.hook_resid_post` or `model.layers.5`."""
    hook = str(sae.cfg.metadata.hook_name or "")
    match = re.fullmatch(r"blocks\.(\d+)\.hook_resid_post|(?:.*\.)?(?:layers|h)\.(\d+)", hook)
    if match is None:
        raise UserError(
            f"SAE '{source.path or source.name}': its hook '{hook}' is not the output of a layer; "
            "SAILS needs SAEs of the residual stream (or say 'layer' in the pair's YAML)"
        )
    return int(match.group(1) or match.group(2))
