"""Initialisations that a recipe can name, one module each: `init: sails` is `sails_eval.methods.sails`.

A module offers the names of `Initialisation`; a new one needs no registration.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sails_eval.core.errors import unknown
from sails_eval.methods.subspace.contrast import Contrast

if TYPE_CHECKING:
    import torch

    from sails_eval.core.schema import Frozen

    State = Mapping[str, "torch.Tensor"]

Need = Literal["saes", "layers", "contrast", "aligned", "planted", "aligned_model"]
"""What an initialisation can't do without.

`layers`: only which layers have a SAE, or all where the pair has none; `aligned`: only the aligned half of the contrast
texts; `aligned_model`: a finished model, one of the pair's `references`.
"""


@dataclass(frozen=True)
class Material:
    """What an initialisation may look at before training: the bare model and, as far as it needs them, the rest.

    `saes` and `planted` (orthonormal columns [d_model, r]) are by layer, ascending; `alignment` is what an aligned
    model adds to the weights of the target modules, [d_out, d_in] by their names; `adapter_config` is the recipe's.
    """

    model: Any
    saes: Mapping[int, Any] = field(default_factory=dict)
    contrast: Contrast = field(default_factory=Contrast)
    planted: Mapping[int, torch.Tensor] = field(default_factory=dict)
    alignment: Mapping[str, torch.Tensor] = field(default_factory=dict)
    adapter_config: Any = None

    @property
    def layers(self) -> list[int]:
        """The layers that get a basis: those with a SAE, so that SAILS and its controls start at the same modules."""
        return list(self.saes) or list(range(self.model.config.get_text_config().num_hidden_layers))

    @property
    def width(self) -> int:
        """d_model."""
        return int(self.model.config.get_text_config().hidden_size)


class Initialisation(Protocol):
    """What a module of this package offers to recipes.

    It may also have `MUTATES_BASE = True`, where `initialise` changes base weights (they are put back after the cell,
    and the adapter is saved as what it adds to them), and `finish(model, state, *, settings)`, for once training is
    done.
    """

    Settings: type[Frozen]
    needs: frozenset[Need]

    def prepare(self, material: Material, settings: Any) -> tuple[State, dict[str, Any]]:
        """Once per run: tensors to start from, and a report by layer on how they came about."""
        ...

    def initialise(self, model: Any, state: State, *, settings: Any, seed: int) -> None:
        """Once per cell: change a fresh PEFT model in place."""
        ...


def adapted_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """The modules of a `PeftModel` that have a LoRA adapter, by their names in the bare model."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            yield name.removeprefix("base_model.model."), module


def load_initialisation(name: str) -> Initialisation:
    """The initialisation module of that name. Raises UserError where there is none."""
    known = [module.name for module in pkgutil.iter_modules(__path__) if not module.ispkg]
    if name not in known:
        raise unknown("initialisation", name, known)
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return module  # type: ignore[no-any-return]
