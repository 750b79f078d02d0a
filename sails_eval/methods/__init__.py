"""Initialisations that a recipe can name, one module each: `init: sails` is `sails_eval.methods.sails`.

A module offers the names of `Initialisation`; a new one needs no registration.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sails_eval.errors import unknown

if TYPE_CHECKING:
    import torch

    from sails_eval.config import Frozen

    State = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class ContrastPair:
    """Two tokenised answers to the same request; `start` is where the answer begins in both.

    `aligned` and `unaligned` hold the ids of the request in the chat format and of the answer's content.
    """

    aligned: list[int]
    unaligned: list[int]
    start: int


@dataclass(frozen=True)
class Material:
    """What an initialisation may look at before training: the bare model, its SAEs by layer, contrast data."""

    model: Any
    saes: Mapping[int, Any]
    contrast: Sequence[ContrastPair]


class Initialisation(Protocol):
    """What a module of this package offers to recipes."""

    Settings: type[Frozen]
    needs_saes: bool
    needs_contrast: bool

    def prepare(self, material: Material, settings: Any) -> tuple[State, dict[str, Any]]:
        """Once per run: tensors to start from, and a report on how they came about."""
        ...

    def initialise(self, model: Any, state: State, *, settings: Any, seed: int) -> None:
        """Once per cell: change a fresh PEFT model in place."""
        ...


def load_initialisation(name: str) -> Initialisation:
    """The initialisation module of that name. Raises UserError where there is none."""
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise unknown("initialisation", name, known)
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return module  # type: ignore[no-any-return]
