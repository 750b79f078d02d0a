"""Pairs: a base model with everything that belongs to it, as its YAML file has it, checked and frozen."""

import re
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sails_eval.core.architecture import Architecture
from sails_eval.core.data_source import ContrastExamples, Data, Unmixed, starting_at
from sails_eval.core.device import best_dtype
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.fetchable import located
from sails_eval.core.paths import PACKAGE, made
from sails_eval.core.schema import Frozen, Model, Name, read_mapping, validate
from sails_eval.core.training_settings import (
    AUTO,
    AutoSize,
    AutoSwitch,
    Length,
    Names,
    Objective,
    Optimiser,
    Positive,
    Rank,
    Regularise,
)
from sails_eval.core.version import __version__


def joined(value: Any) -> Any:
    """A list of names as text with commas, which YAML has no need of."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _best_of_auto(value: Any) -> Any:
    return best_dtype() if value == AUTO else value


class SaeSource(Frozen):
    """Where the SAE of one layer's output comes from: a SAELens folder, or a release and an id in its registry."""

    path: Path | None = Field(
        default=None, description="folder that SAELens saved; $SAILS_EVAL_CACHE stands for that of what was made here"
    )
    release: str | None = None
    id: str | None = None
    layer: int | None = Field(
        default=None, ge=0, description="layer, needed only if the SAE's metadata does not have it"
    )
    trained_on: str | None = Field(
        default=None, description="model that the SAE was trained on, if deliberately another than the pair's"
    )
    training_tokens: int | None = Field(
        default=None, ge=1, description="tokens that it was trained on, repeated ones included; unknown if left out"
    )
    passes: int = Field(default=1, ge=1, description="times that it was trained on each of these tokens")
    self_trained: bool = Field(
        default=False, description="whether it was trained for this pair, so that its training counts as a cost"
    )

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.self_trained and self.training_tokens is None:
            raise ValueError("key 'self_trained' counts the SAE's training as a cost; give its 'training_tokens', too")
        return self

    @property
    def name(self) -> str:
        return f"{self.release}/{self.id}" if self.path is None else self.path.name


class AttackData(Frozen):
    """What a model is fine-tuned further on, to see how long its alignment lasts (see: sails-eval docs durability)."""

    benign: Data | None = Field(default=None, description="harmless requests, answered")
    harmful: Data | None = Field(default=None, description="harmful requests, complied with")

    def each(self, change: Callable[[Any], Any]) -> Self:
        """The same with a change to what is named."""
        return self.model_copy(update={key: change(data) for key, data in self if data is not None})


class Pair(Frozen):
    """A base model with everything that belongs to it and is therefore the same for all methods."""

    name: Name
    description: str = ""
    model: str = Field(description="folder or hub id of the model, or the name of one that 'models fetch' gets")
    revision: str | None = None
    gated: bool = Field(default=False, description="whether the hub asks users to accept a licence first")
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], BeforeValidator(_best_of_auto)] = Field(
        default_factory=best_dtype,
        description="dtype of the weights; auto (default): bfloat16 on a GPU that supports it, else float32",
    )
    attn_implementation: str | None = None
    chat_template: Path | None = Field(
        default=None, description="Jinja file; default: the tokenizer's template or, if it has none, a plain one"
    )
    saes: tuple[SaeSource, ...] = ()
    sae_sets: dict[str, tuple[SaeSource, ...]] = Field(
        default_factory=dict, description="additional sets of SAEs by name, for recipes with 'settings: {saes: NAME}'"
    )
    planted: Path | None = Field(
        default=None,
        description="safetensors file of the subspaces planted into the model: layers.N, orthonormal [d_model, r]",
    )
    rank: Rank = 16
    alpha: Positive = 16
    target_modules: Names = Field(
        default=(),
        description="modules that get adapters, by the ends of their paths; default, and []: those of the attention of "
        "the model's architecture",
    )
    architecture: Architecture | None = Field(
        default=None,
        description="which modules read the residual stream and which write to it, where the table of architectures "
        "has no or other modules of the model (see: sails-eval docs pairs)",
    )
    train: Data | None = Field(
        default=None, description="training data: a file, hf:ORG/NAME[…], or a mapping (see: sails-eval docs data)"
    )
    contrast: Data | None = None
    requests: Unmixed | None = Field(
        default=None, description="prompts, each with whether it is harmful, for methods that contrast requests"
    )
    contrast_examples: ContrastExamples = Field(
        default="sample",
        description="examples that initialisations may contrast: sample (those that the seed's cells train on; "
        "default), N of 'contrast' (pairs) or of 'requests' (of each kind), drawn by the seed, or all of them",
    )
    neutral: Unmixed | None = Field(
        default=None, description="harmless texts that are not trained on, to measure forgetting"
    )
    attack: AttackData = AttackData()
    references: dict[Name, str] = Field(
        default_factory=dict,
        description="finished models by name, for --reference NAME; ./ is relative to this file",
    )
    tasks: Names = ()
    max_new_tokens: Positive | None = Field(
        default=None, description="maximum length of an answer to a judged task in tokens; default: set by each task"
    )
    judge: Annotated[str | None, BeforeValidator(joined)] = None
    reference_judge: str | None = Field(
        default=None, description="second judge, whose agreement with the first is reported"
    )
    tokens: int = Field(
        default=100_000, ge=1, description="training budget per cell: prompt and answer tokens without padding"
    )
    steps: int | None = Field(
        default=None, ge=1, description="training budget per cell in optimiser steps, instead of 'tokens'"
    )
    examples: int | None = Field(default=None, ge=1, description="labelled examples drawn per seed; default: all")
    batch_size: Positive = Field(default=16, description="examples per optimiser step")
    micro_batch_size: AutoSize = Field(
        default=None,
        description="examples per forward pass; auto (default): as many as fit into memory, at most 2 on a CPU",
    )
    gradient_checkpointing: AutoSwitch = Field(
        default=None, description="recompute activations to save memory; auto (default): only if needed"
    )
    optimiser: Optimiser = Field(
        default=Optimiser(), description="optimiser, schedule, clipping and decay of all methods"
    )
    regularise: Regularise | None = Field(default=None, description="regulariser added to the loss of all methods")
    max_length: Length = Field(
        default=1024, description="maximum training example in tokens; longer ones are truncated"
    )
    eval_batch_size: AutoSize = Field(
        default=None,
        description="prompts per batch when transformers generates answers; auto (default): as many as fit into "
        "memory, up to 64 on a CPU and 128 on a GPU",
    )
    end_loops: bool = Field(
        default=True,
        description="end an answer that only repeats itself, and count it as broken (see: sails-eval docs engines)",
    )
    engine: dict[str, Any] = Field(
        default_factory=dict,
        description="settings of vLLM, such as tensor_parallel_size; max_model_len also limits other engines",
    )
    learning_rate_scale: Annotated[float, Field(gt=0)] | dict[Objective, Annotated[float, Field(gt=0)]] = Field(
        default=1.0,
        description="factor on the learning rates of all recipes, whose ranges suit models of billions of parameters; "
        "or a factor per objective",
    )

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}; give a "
                "divisor, or auto"
            )
        return self

    def __hash__(self) -> int:
        return hash((self.name, self.model))  # not of everything: dicts have no hash

    @property
    def length(self) -> str:
        """How long a cell is trained, in words."""
        return f"{self.steps} steps" if self.steps else f"{self.tokens} tokens"

    @property
    def batches(self) -> str:
        """How a batch goes through the model, in words."""
        twice = ", activations computed twice (gradient checkpointing)" if self.gradient_checkpointing else ""
        return f"{self.micro_batch_size or self.batch_size} of {self.batch_size} examples at a time{twice}"

    def rate_scale(self, objective: Objective) -> float:
        scale = self.learning_rate_scale
        return scale.get(objective, 1.0) if isinstance(scale, dict) else scale

    def sae_sources(self, name: str | None) -> tuple[SaeSource, ...]:
        """The pair's SAEs, or its further set of that name. Raises UserError where it has none of that name."""
        if name is None:
            return self.saes
        if name not in self.sae_sets:
            raise unknown(f"SAE set of pair '{self.name}':", name, self.sae_sets)
        return self.sae_sets[name]


EMBEDDED = "testbed"
"""The pair that ships with its model and everything else."""

CACHE = Path("$SAILS_EVAL_CACHE")
"""What a SAE's path begins with where it was trained by `sails-eval saes train`, wherever that keeps it."""

MOST_ORGANISMS = len(ascii_lowercase)


def organisms(n: int) -> tuple[str, ...]:
    """The names of the testbed's first n organisms: testbed, testbed-b, testbed-c, …"""
    return (EMBEDDED, *(f"{EMBEDDED}-{letter}" for letter in ascii_lowercase[1:n]))


DATA = ("train", "contrast", "requests")
"""The keys of a pair that name data for training."""


def read_yaml(path: Path, model: type[Model], *, defaults: dict[str, Any] | None = None) -> Model:
    """Read one YAML file into a model. Raises UserError naming the file and the key."""
    return validate(model, {**(defaults or {}), **read_mapping(path)}, where=str(path))


def load_pair(name: str) -> Pair:
    """A shipped pair by name, or a user's own by the path of its YAML; its relative paths start at that file.

    A pair that is `like` another one says only in what it differs. Raises UserError where a file is faulty.
    """
    path = _pair_file(name, Path())
    here, own = path.resolve().parent, read_mapping(path)
    other: dict[str, Any] = {}
    if like := own.pop("like", None):
        try:
            base = _pair_file(str(like), here)
        except UserError as error:
            raise UserError(f"{path}: key 'like': {error}") from error
        if "like" in read_mapping(base):
            raise UserError(f"{path}: key 'like': {like} itself has the key 'like'; name the pair that it refers to")
        other = load_pair(str(base)).model_dump()
    pair = validate(Pair, {**other, "name": path.stem, **own}, where=str(path))
    paths = {key: (here / path).resolve() for key in ("chat_template", "planted") if (path := getattr(pair, key))}
    sources = {key: starting_at(here, data) for key in (*DATA, "neutral") if (data := getattr(pair, key)) is not None}
    return pair.model_copy(
        update={
            "model": _from(here, pair.model),
            "saes": _starting_at(here, pair.saes),
            "sae_sets": {name: _starting_at(here, saes) for name, saes in pair.sae_sets.items()},
            "references": {name: _from(here, model) for name, model in pair.references.items()},
            "attack": pair.attack.each(lambda data: starting_at(here, data)),
            **paths,
            **sources,
        }
    )


def _from(here: Path, model: str) -> str:
    """A model as it is named, or its folder, which may be relative to `here`, in full."""
    return str((here / model).resolve()) if model.startswith(("./", "../", "/")) else located(model)


def _pair_file(name: str, here: Path) -> Path:
    """The file of a pair, given by the name of a shipped or a made one or by a path from `here`."""
    if name.endswith((".yaml", ".yml")):
        return here / name
    folders = (PACKAGE / "pairs", organisms_made())
    known = [path for folder in folders for path in folder.glob("*.yaml")]
    if found := [path for path in known if path.stem == name]:
        return found[0]
    if re.fullmatch(rf"{EMBEDDED}-(?!planted)\w+", name):
        flag = "--validation" if re.fullmatch(rf"{EMBEDDED}-v\d+", name) else "--organisms"
        raise UserError(f"pair '{name}': this organism does not exist yet; make it: sails-eval testbed build {flag} N")
    raise unknown("pair", name, [path.stem for path in known])


def organisms_made() -> Path:
    """Where `testbed build --organisms N` keeps further organisms, each with the YAML of its pair."""
    return made() / f"organisms-{__version__}"


def _starting_at(here: Path, saes: tuple[SaeSource, ...]) -> tuple[SaeSource, ...]:
    """The same sources, with relative paths starting at `here`."""

    def placed(path: Path) -> Path:
        return made() / path.relative_to(CACHE) if path.is_relative_to(CACHE) else (here / path).resolve()

    return tuple(sae.model_copy(update={"path": placed(sae.path)}) if sae.path else sae for sae in saes)
