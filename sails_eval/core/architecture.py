"""Where a model's decoder layers touch the residual stream, as a table or a pair's YAML says it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Self

from pydantic import Field, model_validator

from sails_eval.core.schema import Frozen
from sails_eval.core.training_settings import Names

NormOf = dict[str, str | None]
"""Modules by their path within a decoder layer, where * stands for any text, with the path of a norm beside each."""


class Architecture(Frozen):
    """Which modules of a decoder layer read the residual stream and which write to it; what is not said is empty."""

    like: str | None = Field(
        default=None, description="the architecture of the table that this one differs from; default: the model's own"
    )
    layers: str | None = Field(
        default=None, description="path of the list of decoder layers; default: the list called layers, h or blocks"
    )
    readers: NormOf = Field(
        default_factory=dict,
        description="modules that read the stream, each with the norm before it (null: none); a path within a decoder "
        "layer, such as self_attn.q_proj, in which * stands for any text",
    )
    writers: NormOf = Field(
        default_factory=dict,
        description="modules whose output is added to the stream, each with the norm after it (null: none)",
    )
    target_modules: Names = Field(
        default=(), description="what gets adapters if nothing else says: the modules of its attention"
    )
    refused: str = Field(default="", description="why no module can start from a basis; default: some can")

    @model_validator(mode="after")
    def _one_side(self) -> Self:
        if both := sorted(self.readers.keys() & self.writers.keys()):
            raise ValueError(f"{both[0]} is among 'readers' and 'writers'; leave it out of one of them")
        return self

    def changed(self, own: Architecture) -> Self:
        """The same with what another one says: its modules besides these, or instead of those of the same path."""
        said = {key: value for key, value in own if value and key != "like"}
        if said.keys() & {"readers", "writers"}:
            told = own.readers.keys() | own.writers.keys()
            for key in ("readers", "writers"):
                rest = {path: norm for path, norm in getattr(self, key).items() if path not in told}
                said[key] = getattr(own, key) | rest
        return self.model_copy(update=said)

    @property
    def modules(self) -> dict[str, tuple[bool, str | None]]:
        """By path, whether a module writes to the stream (else it reads), and the norm on its way."""
        sides = ((False, self.readers), (True, self.writers))
        return {path: (writes, norm) for writes, side in sides for path, norm in side.items()}

    def place(self, path: str) -> tuple[bool, str | None] | None:
        """The same of the module at a path within a layer; one that is named in full counts before those with a *."""
        both = self.modules
        return both.get(path) or next((place for name, place in both.items() if fnmatchcase(path, name)), None)

    def side(self, target: str) -> bool | None:
        """Whether a target module, which is named by the end of its path, writes; None where its side is not known."""
        for path, (writes, _) in self.modules.items():
            if fnmatchcase(target, path) or f".{path}".endswith(f".{target}"):
                return writes
        return None

    @property
    def endings(self) -> list[str]:
        """The ends of the paths of all modules whose side is known, which name them."""
        return list(dict.fromkeys(path.rsplit("*", 1)[-1].removeprefix(".") for path in self.modules))

    @property
    def known(self) -> list[str]:
        """The names of the modules whose side is known."""
        return sorted({path.rsplit(".", 1)[-1] for path in self.modules})
