"""Loading SAEs, all through SAELens: from a folder that it saved, or from a release of its registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError, foreign
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.methods.subspace.layers import sae_layer


def load_saes(pair: Pair, model: Any, name: str | None = None) -> dict[int, Any]:
    """The pair's SAEs by the layer of `model` whose output they read, ascending, on the model's device.

    `name` is one of the pair's further sets. Raises UserError where there is none of that name, an SAE cannot be
    loaded, does not fit, its layer is unknown, or two are of the same layer.
    """
    saes: dict[int, Any] = {}
    for source in pair.sae_sources(name):
        sae = load_sae(source).to(model.device).eval()
        check_model(source, sae, pair.model)
        layer = layer_of(source, sae)
        if layer in saes:
            raise UserError(f"two SAEs are given for layer {layer}; keep one")
        saes[layer] = sae
    check_widths(model, saes)
    return dict(sorted(saes.items()))


def check_widths(model: Any, saes: Mapping[int, Any]) -> None:
    """Raises UserError where an SAE is not of the model's width or belongs to a layer that the model lacks."""
    config = model.config.get_text_config()
    for layer, sae in saes.items():
        if sae.cfg.d_in != config.hidden_size:
            raise UserError(
                f"SAE of layer {layer} reads vectors of width {sae.cfg.d_in}, but the model's residual stream has "
                f"width {config.hidden_size}; take SAEs that were trained on this model"
            )
        if layer >= config.num_hidden_layers:
            raise UserError(f"SAE of layer {layer}: the model has {config.num_hidden_layers} layers, counted from 0")


def check_model(source: SaeSource, sae: Any, model: str) -> None:
    """Raises UserError where a release's SAE is of another model than `model`, if that is a hub id.

    Widths alone do not tell: Llama 3.1 8B and Qwen3 8B have the same. The pair's `trained_on` says that it is meant.
    """
    own = str(sae.cfg.metadata.model_name or "")
    if source.release is None or Path(model).is_dir() or not own:
        return
    meant = source.trained_on or model
    if own.rpartition("/")[2].lower() != meant.rpartition("/")[2].lower():
        raise UserError(
            f"SAE '{source.name}' is of the model '{own}', not of '{meant}'; take SAEs of this model, or say "
            f"'trained_on: {own}' beside its release if another model is meant"
        )


def load_sae(source: SaeSource) -> Any:
    """One SAE, on the CPU. Raises UserError where it cannot be loaded or its normalisation cannot be honoured."""
    from sae_lens import SAE  # takes seconds to import

    if source.path is not None and not (source.path / "cfg.json").is_file():
        raise UserError(f"SAE '{source.path}': no cfg.json there; give a folder that SAELens saved")
    if source.path is None and not (source.release and source.id):
        raise UserError("an SAE needs a 'path', or a 'release' and an 'id'")
    with foreign(f"SAE '{source.path or source.name}': cannot load it"):
        sae = SAE.load_from_disk(str(source.path)) if source.path else SAE.from_pretrained(source.release, source.id)
    found = sae.cfg.normalize_activations
    if found not in ("none", "layer_norm", "constant_norm_rescale"):  # which `encode` does
        raise UserError(
            f"SAE '{source.path or source.name}': it reads activations scaled by '{found}', and the scale is not "
            "folded into its weights, so its features would be wrong. Fold it and save the SAE again (SAELens: "
            "fold_activation_norm_scaling_factor), or use a release in SAELens's registry whose scale is folded in"
        )
    return sae


def layer_of(source: SaeSource, sae: Any) -> int:
    """The layer whose output an SAE reads: as the pair says, or the name of its hook. Raises UserError if neither."""
    hook = str(sae.cfg.metadata.hook_name or "")
    if (layer := sae_layer(source, hook)) is None:
        raise UserError(
            f"SAE '{source.path or source.name}': its hook '{hook}' is not the output of a layer; "
            "SAILS needs SAEs of the residual stream (or say 'layer' in the pair's YAML)"
        )
    return layer
