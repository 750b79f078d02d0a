"""Loading SAEs, all through SAELens: from a folder that it saved, or from a release of its registry."""

from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.methods.subspace.layers import CONFIG, Stated, fix_of, read_stated, sae_layer
from sails_eval.models.stored import check_readable

ENCODED = ("none", "layer_norm", "constant_norm_rescale")
"""The normalisations of activations that a SAE's `encode` does by itself."""


def load_saes(pair: Pair, model: Any, name: str | None = None) -> dict[int, Any]:
    """The pair's SAEs by the layer of `model` whose output they read, ascending, on the model's device.

    `name` is one of the pair's further sets. Raises UserError where there is none of that name, an SAE cannot be
    loaded, does not fit, its layer is unknown, or two are of the same layer.
    """
    saes: dict[int, Any] = {}
    for source in pair.sae_sources(name):
        sae = load_sae(source).to(model.device).eval()
        layer = check_fits(source, stated_by(sae), model.config.get_text_config(), pair.model)
        if layer in saes:
            raise UserError(f"two SAEs are given for layer {layer}; keep one")
        saes[layer] = sae
    return dict(sorted(saes.items()))


def load_sae(source: SaeSource) -> Any:
    """One SAE, on the CPU. Raises UserError where it cannot be loaded or its normalisation cannot be honoured."""
    from sae_lens import SAE  # takes seconds to import

    from sails_eval.models.saved_weights import finite

    if source.path is None and not (source.release and source.id):
        raise UserError("an SAE needs a 'path', or a 'release' and an 'id'")
    if source.path is not None:
        read_folder(source.path)
    fix = f"correct its {CONFIG}, or save it again with SAELens" if source.path else "correct its 'release' and 'id'"
    with as_user_error(f"SAE '{source.path or source.name}': cannot load it", fix):
        sae = SAE.load_from_disk(str(source.path)) if source.path else SAE.from_pretrained(source.release, source.id)
        sae.encode(sae.W_dec[:1])  # with settings that are looked at only now
    _check_scale(source, sae.cfg.normalize_activations)
    strange = next((name for name, weight in sae.named_parameters() if not finite(weight)), "")
    if strange or not sae.W_dec.norm(dim=1).all():
        told = f"weight {strange} has values that are not finite" if strange else "directions of its decoder are zero"
        raise UserError(f"SAE '{source.path or source.name}': {told}; copy or fetch it again")
    return sae


def read_folder(folder: Path) -> Stated:
    """What a SAE in a folder says of itself. Raises UserError where its files are missing or cannot be read."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"SAE '{folder}': no {CONFIG} there; {fix_of(folder, 'give a folder that SAELens saved')}")
    check_readable(folder)
    return read_stated(folder)


def stated_by(sae: Any) -> Stated:
    """What a loaded SAE says of itself."""
    return Stated.model_validate(sae.cfg)


def check_fits(source: SaeSource, stated: Stated, config: Any, model: str) -> int:
    """The layer whose output an SAE reads: as the pair says, or the name of its hook.

    `config` is that of the text part of `model`. Raises UserError where the SAE tells no layer, is not of the model's
    width, of a layer that it lacks, or of another model, or scales what it reads by something that is not here.
    """
    named = stated.metadata.hook_name or ""
    if (layer := sae_layer(source, named)) is None:
        raise UserError(
            f"SAE '{source.path or source.name}': its hook '{named:.100}' is not the output of a layer; SAILS needs "
            "SAEs of the residual stream (or say 'layer' in the pair's YAML)"
        )
    _check_scale(source, stated.normalize_activations)
    check_width(config, layer, stated.d_in)
    _check_origin(source, stated.metadata.model_name or "", model)
    return layer


def check_width(config: Any, layer: int, width: int) -> None:
    """Raises UserError where an SAE is not of the model's width or belongs to a layer that the model lacks."""
    if width != config.hidden_size:
        raise UserError(
            f"SAE of layer {layer} reads vectors of width {width}, but the model's residual stream has width "
            f"{config.hidden_size}; take SAEs that were trained on this model"
        )
    if layer >= config.num_hidden_layers:
        raise UserError(f"SAE of layer {layer}: the model has {config.num_hidden_layers} layers, counted from 0")


def _check_scale(source: SaeSource, scale: str) -> None:
    if scale not in ENCODED:
        raise UserError(
            f"SAE '{source.path or source.name}': it reads activations scaled by '{scale:.100}', and the scale is not "
            "folded into its weights, so its features would be wrong. Fold it and save the SAE again (SAELens: "
            "fold_activation_norm_scaling_factor), or use a release in SAELens's registry whose scale is folded in"
        )


def _check_origin(source: SaeSource, own: str, model: str) -> None:
    """Raises UserError where a release's SAE is of another model than `model`, if that is a hub id.

    Widths alone do not tell: Llama 3.1 8B and Qwen3 8B have the same. The pair's `trained_on` says that it is meant.
    """
    if source.release is None or Path(model).is_dir() or not own:
        return
    meant = source.trained_on or model
    if own.rpartition("/")[2].lower() != meant.rpartition("/")[2].lower():
        raise UserError(
            f"SAE '{source.name}' is of the model '{own}', not of '{meant}'; take SAEs of this model, or say "
            f"'trained_on: {own}' beside its release if another model is meant"
        )
