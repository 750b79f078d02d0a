"""The shape of a model without its weights: its config, and the model that it makes on the meta device.

The config is the model's own where it is at hand (a folder, or the local hub cache); else it is made of the sizes that
`published_models.yaml` holds. Nothing is fetched.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from sails_eval.core.errors import UserError, as_user_error
from sails_eval.core.pair import Pair
from sails_eval.core.paths import PACKAGE
from sails_eval.core.recipe import Recipe
from sails_eval.methods import FromBasis, load_initialisation
from sails_eval.methods.subspace.basis import initialise, norm_gain
from sails_eval.methods.subspace.layers import basis_layers
from sails_eval.methods.subspace.settings import Placement
from sails_eval.models.adapters import adapter_config, add_adapter, is_own
from sails_eval.models.answer_batches import kv_bytes_per_token
from sails_eval.models.base import config_of, dtype_of
from sails_eval.models.layers import Places, decoder_layers, with_architecture
from sails_eval.models.stored import TOKENIZER, check_readable, fix_of_loading
from sails_eval.training.cell import check_target_modules, trained_in_full

PUBLISHED = PACKAGE / "plan" / "cost" / "published_models.yaml"


@dataclass(frozen=True)
class Shape:
    """A model's config and where it comes from: `folder`, `hub cache` or `published sizes`."""

    config: Any
    source: str

    @property
    def text(self) -> Any:
        """The config of the part that reads and writes text."""
        return self.config.get_text_config()

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token over all layers, in half precision."""
        return kv_bytes_per_token(self.text)

    @property
    def attends(self) -> bool:
        """Whether it has attention; a state-space model (Mamba) reads token by token, at the same cost for each."""
        return bool(getattr(self.text, "num_attention_heads", None))


def shape_of(pair: Pair) -> Shape:
    """The shape of the pair's model. Raises UserError where nothing on this machine tells it."""
    folder = Path(pair.model).is_dir()
    if folder:
        check_readable(Path(pair.model), TOKENIZER)
        return Shape(config_of(pair), "folder")
    try:
        fix = f"download it: hf download {pair.model} config.json"
        return Shape(config_of(pair, fix=fix, local_files_only=True), "hub cache")
    except UserError:
        published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
        if pair.model not in published:
            raise
        return Shape(AutoConfig.for_model(**published[pair.model]), "published sizes")


def on_meta(shape: Shape, pair: Pair, *, dtype: torch.dtype) -> Any:
    """The model without memory for its weights, every one of which has its shape and dtype.

    Raises UserError where it cannot be made here: an attention that is not installed, or a config of something else.
    """
    options = {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
    with as_user_error(f"model '{pair.model}': cannot load it", fix_of_loading(options)), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape.config, dtype=dtype, trust_remote_code=False, **options)
    return with_architecture(model.requires_grad_(False), pair)


def to_train(shape: Shape, pair: Pair, recipe: Recipe) -> Any:
    """What a recipe trains at step 0, on the meta device: as `training.cell.trainable` makes it, without values."""
    adapter = recipe.parameters == "adapter"
    model = on_meta(shape, pair, dtype=dtype_of(pair) if adapter else torch.float32)
    if adapter:
        check_target_modules(model, pair)
        config = adapter_config(pair, recipe)
        weights = getattr(config, "init_lora_weights", True)
        if isinstance(weights, str):  # from the weights, of which there are none here
            config.init_lora_weights = True
        model = add_adapter(model, config)
        for name, weight in model.named_parameters():
            if "ranknum" in name:  # a constant of AdaLoRA, which PEFT makes anew, and trainable, on the meta device
                weight.requires_grad_(False)
        if weights == "mica":
            for name, weight in model.named_parameters():
                weight.requires_grad_("lora_A" in name)
        start = load_initialisation(recipe)
        layers = basis_layers(pair.sae_sources(start.sae_set), shape.text.num_hidden_layers)
        if isinstance(start, FromBasis):
            _check_places(model, start.settings, layers)
        if start.freezes:
            start.freeze(model, layers)
        return model
    for name, weight in model.named_parameters():
        weight.requires_grad_(trained_in_full(name, pair, recipe))
    return model


def _check_places(model: Any, settings: Placement, layers: Sequence[int]) -> None:
    """Raises UserError where a start from bases at `layers` would find no place in the adapter's modules."""
    empty = {f"layers.{layer}": torch.zeros(model.config.get_text_config().hidden_size, 0) for layer in layers}
    changed = {"gains": "ignored", "fill": "none", "basis": "trainable"}  # where they are put is all that is asked
    initialise(model, empty, settings=settings.model_copy(update=changed), seed=0)
    if settings.gains == "divided":
        places, modules = Places(model), decoder_layers(model)
        for place in (places.of(name) for name, module in model.named_modules() if hasattr(module, "lora_A")):
            with suppress(NotImplementedError):  # the norm is known, and on the meta device has no values
                norm_gain(modules[place.layer], place.norm)


def trained_and_all(model: Any) -> tuple[int, int]:
    """How many parameters are trained, and how many the model has without its adapter."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return trained, sum(weight.numel() for name, weight in model.named_parameters() if not is_own(name, model))
