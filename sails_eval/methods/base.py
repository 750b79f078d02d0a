"""What an initialisation is: how it is declared, what it may look at, and what it does before, at and after a cell.

Nothing here needs torch until something is computed: what a recipe says is checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from sails_eval.core.schema import Frozen
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.methods.subspace.settings import ContrastKind, ContrastSettings, Placement, Positions

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
Report = dict[str, Any]

Need = Literal["saes", "layers", "contrast", "aligned", "planted", "aligned_model"]
"""What an initialisation can't do without.

`layers`: only which layers have an SAE, or all where the pair has none; `aligned`: only the aligned half of the
contrast texts; `aligned_model`: a finished model, one of the pair's `references`.
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
        """The layers that get a basis: those with an SAE, so that SAILS and its controls start at the same modules."""
        return list(self.saes) or list(range(self.model.config.get_text_config().num_hidden_layers))

    @property
    def rank(self) -> int:
        """The adapter's."""
        return int(self.adapter_config.r)

    @property
    def width(self) -> int:
        """d_model."""
        return int(self.model.config.get_text_config().hidden_size)


class Flops(Protocol):
    """What the steps that a preparation may consist of take at a pair's model, of which `cost` makes a sum."""

    @property
    def contrast(self) -> Contrast:
        """The texts of both classes, where the initialisation needs either."""

    @property
    def saes(self) -> int:
        """How many SAEs it reads."""

    @property
    def rank(self) -> int:
        """The adapter's."""

    def contrasting(self, positions: Positions) -> float:
        """Both classes go to the last layer that gets a basis, where SAEs, if any, read what counts, in halves."""

    def walking(self, texts: Sequence[Sequence[int]], *, at_a_time: int) -> float:
        """Tokenised texts go through the whole model, each batch padded to its longest."""

    def target_modules(self) -> list[tuple[int, int]]:
        """Not FLOPs but the sizes that some depend on: (d_in, d_out) of every module that gets an adapter."""


class Initialisation:
    """How an adapter starts, made of the settings that a recipe gives it; itself it is PEFT's own start.

    A new one is a subclass that says where it differs: what it needs, what a recipe may set (`Settings`), and what it
    does. Import torch inside the functions that compute.
    """

    Settings: ClassVar[type[Frozen]] = Frozen
    needs: ClassVar[frozenset[Need]] = frozenset()
    changes_base: ClassVar[bool] = False
    """Whether `initialise` changes base weights: these are put back after the cell, and the adapter is saved as what it
    adds to them."""
    costs_more: ClassVar[bool] = False
    """Whether `cost` is a lower bound."""

    def __init__(self, settings: Frozen) -> None:
        self.settings = settings

    @property
    def sae_set(self) -> str | None:
        """Which of the pair's `sae_sets` it reads; None: the pair's own `saes`."""
        return None

    @property
    def contrasts(self) -> ContrastKind:
        """Which of the pair's contrast texts it looks at, where it needs some."""
        return "responses"

    @property
    def aligned(self) -> str:
        """Which of the pair's `references` it looks at, where it needs one; `first`: the first of them."""
        return "first"

    @property
    def freezes(self) -> bool:
        """Whether it leaves part of the adapter untrained."""
        return False

    def prepare(self, material: Material) -> tuple[State, Report]:
        """Tensors to start from, and a report (by layer, or by what it says) on how they came about.

        Called once for each seed, or once for all where they look at the same.
        """
        return {}, {}

    def describe(self, state: State, *, rank: int, planted: Mapping[int, torch.Tensor]) -> Report:
        """What a report says besides, by layer, of the state at a rank and the subspaces that were `planted`."""
        return {}

    def warnings(self, report: Report, *, rank: int) -> list[str]:
        """What whoever reads a board should know of how the state came about: clauses without a semicolon."""
        return []

    def initialise(self, model: Any, state: State, *, seed: int) -> None:
        """Once per cell: change a fresh PEFT model in place."""

    def freeze(self, model: Any, layers: Sequence[int]) -> None:
        """Freeze on the meta device what `initialise` would, where `layers` get a basis; of one that `freezes`."""

    def finish(self, model: Any, state: State) -> None:
        """Once training is done: change the trained model in place."""

    def cost(self, flops: Flops) -> float:
        """FLOPs of `prepare`, foretold; SAEs that were trained for the pair are charged apart."""
        return 0.0


class FromBasis(Initialisation):
    """A start from bases of the residual stream: the state is that of `subspace.basis`."""

    Settings: ClassVar[type[Placement]] = Placement
    settings: Placement

    @property
    def freezes(self) -> bool:
        return self.settings.basis == "frozen" or self.settings.uncovered == "skip"

    def describe(self, state: State, *, rank: int, planted: Mapping[int, torch.Tensor]) -> Report:
        from sails_eval.methods.subspace.basis import describe

        return describe(state, rank=rank, fill=self.settings.fill, planted=planted)

    def warnings(self, report: Report, *, rank: int) -> list[str]:
        from sails_eval.methods.subspace.basis import misfits

        return misfits(report, rank=rank)

    def initialise(self, model: Any, state: State, *, seed: int) -> None:
        from sails_eval.methods.subspace.basis import initialise

        initialise(model, state, settings=self.settings, seed=seed)

    def freeze(self, model: Any, layers: Sequence[int]) -> None:
        import torch

        from sails_eval.methods.subspace.basis import initialise

        empty = {f"layers.{layer}": torch.zeros(model.config.get_text_config().hidden_size, 0) for layer in layers}
        # gains freeze nothing, and on the meta device norms have none
        initialise(model, empty, settings=self.settings.model_copy(update={"gains": "ignored"}), seed=0)


class FromContrast(FromBasis):
    """A start from bases that are found by contrasting aligned and unaligned texts."""

    class Settings(ContrastSettings, Placement):
        pass

    settings: Settings
    needs = frozenset({"layers", "contrast"})

    @property
    def contrasts(self) -> ContrastKind:
        return self.settings.contrast

    def cost(self, flops: Flops) -> float:
        return flops.contrasting(self.settings.positions)


def adapted_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """The modules of a `PeftModel` that have a LoRA adapter, by their names in the bare model."""
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            yield name.removeprefix("base_model.model."), module
