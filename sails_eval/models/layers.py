"""The decoder layers of a model, and where their modules touch the residual stream."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from sails_eval.core.architecture import Architecture
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.models.architectures import architecture, named

LINEAR = (nn.Linear, Conv1D)
"""Modules that adapters are put on; GPT-2's Conv1D is a linear one whose weight lies the other way round, [in, out]."""

NOT_TEXT = r"\b(?:vision_tower|audio_tower|vision_model|visual|multi_modal_projector)\b"
"""Parts of a model that no text goes through: they are neither adapted nor trained."""

KEY = "sails_eval_architecture"
"""What a pair says of its model's architecture, in the model's config: it is found there wherever the model goes."""

UNKNOWN = "a norm that is in no table"


@dataclass(frozen=True)
class Place:
    """Where a module touches the residual stream: its layer, whether it writes there, and the norm on its way, by its
    path in the layer: None where there is none, else perhaps UNKNOWN."""

    layer: int
    writes: bool
    norm: str | None


def with_architecture(model: Any, pair: Pair) -> Any:
    """The pair's model, which knows what the pair says of its architecture."""
    if pair.architecture is not None:
        setattr(model.config, KEY, pair.architecture.model_dump(exclude_defaults=True))
    return model


def architecture_of(model: Any) -> Architecture:
    """The architecture of a model, or of what PEFT made of one."""
    own = model.config.to_dict().get(KEY)
    return architecture(_text_config(model), Architecture(**own) if own else None)


def is_unlisted(model: Any) -> bool:
    """Whether the table of architectures has no entry for the model's type."""
    return named(_text_config(model)) is None


def _text_config(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = model.config.get_text_config().to_dict()
    return found


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of decoder layers; the output of layer n is the residual stream after it."""
    return _list_of_layers(model)[1]


def _list_of_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """The same with its name in the model. Raises UserError where there is none."""
    n, path = model.config.get_text_config().num_hidden_layers, architecture_of(model).layers
    called = re.compile(rf"(?:.*\.)?(?:{re.escape(path) if path else 'layers|h|blocks'})")
    for name, module in model.named_modules():
        found = isinstance(module, nn.ModuleList) and len(module) == n and called.fullmatch(name)
        if found and not re.search(NOT_TEXT, name):
            return name, module
    told = f"at {path}" if path else "called layers, h or blocks"
    raise UserError(
        f"{type(model).__name__} has no list of {n} decoder layers {told} that SAEs could be hooked to; say where they "
        "are in the pair's YAML, such as 'architecture: {layers: transformer.blocks}' (see: sails-eval docs pairs)"
    )


class Places:
    """Where the modules of a model touch the residual stream, by their names."""

    def __init__(self, model: Any) -> None:
        config = _text_config(model)
        self._architecture, self._kind = architecture_of(model), config["model_type"]
        prefix, layers = _list_of_layers(model)
        self._name = re.compile(rf"{re.escape(prefix)}\.(\d+)\.(.+)")
        norms = {name for name, _ in layers[0].named_children() if "norm" in name}
        told = {norm for _, norm in self._architecture.modules.values() if norm}
        own = model.config.to_dict().get(KEY, {}).keys() & {"like", "readers", "writers"}
        self._norms_known = bool(own) or not is_unlisted(model) or norms == told

    def of(self, name: str) -> Place:
        """The place of a module. Raises UserError where it is not known, or no module may start from a basis."""
        if self._architecture.refused:
            raise UserError(
                f"no module of a {self._kind} model can start from a basis: {self._architecture.refused}; leave this "
                "method out, or tell its modules in key 'architecture' of the pair's YAML (see: sails-eval docs pairs)"
            )
        match = self._name.fullmatch(name)
        found = self._architecture.place(match[2]) if match else None
        if match is None or found is None:
            path = match[2] if match else "self_attn.q_proj"
            raise UserError(
                f"cannot tell whether target module '{name}' reads or writes the residual stream; known of a "
                f"{self._kind} model are {', '.join(self._architecture.known)}; leave it out of 'target_modules', or "
                f"tell it in the pair's YAML, such as 'architecture: {{readers: {{{path}: input_layernorm}}}}', which "
                "'sails-eval pairs check' finds out (see: sails-eval docs pairs)"
            )
        writes, norm = found
        return Place(int(match[1]), writes, norm if self._norms_known else UNKNOWN)
