"""Hashes of what determines results: of a run as a whole, and of each recipe's cells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.pair import Pair, SaeSource
from sails_eval.core.recipe import Recipe
from sails_eval.core.schema import Frozen
from sails_eval.data.reading import read_contrast, read_examples, read_requests
from sails_eval.methods import initialisations, load_initialisation, source_files
from sails_eval.methods.subspace.prepare import CONTRASTED
from sails_eval.models.identity import model_identity


class Identity(Frozen):
    """Hashes of all that determines results, as run.json has them; what does not apply is empty or None.

    Of a run of several, `parts` has that of each by its folder, and the rest is empty. Its fields are never set
    again; what is in a dict is not to be changed either, though pydantic would not notice.
    """

    model: dict[str, Any] = Field(default_factory=dict, description="weights, chat template, and how the model is run")
    checkpoint: dict[str, Any] | None = Field(default=None, description="the adapter that is evaluated")
    tasks: dict[str, str] = Field(default_factory=dict, description="settings, code and data of every task")
    limit: int | None = Field(default=None, description="only the first documents of every task and split")
    engine: dict[str, Any] = Field(default_factory=dict, description="the inference engine")
    judge: str = Field(default="", description="its fingerprint")
    version: str = Field(default="", description="of this package")
    environment: dict[str, str] = Field(default_factory=dict, description="versions of Python and the libraries")
    training: dict[str, Any] = Field(default_factory=dict, description="what all cells depend on")
    recipes: dict[str, str] = Field(default_factory=dict, description="what the cells of each recipe depend on")
    seeds: int | None = Field(default=None, description="how many cells there are of every recipe and rate")
    learning_rates: dict[str, list[float]] = Field(default_factory=dict, description="of each recipe")
    match: str | None = Field(default=None, description="what methods have alike: tokens, flops or seconds")
    match_params: bool | None = Field(default=None, description="whether adapters train as much as LoRA does")
    tokens: dict[str, int] = Field(
        default_factory=dict, description="of each recipe's cells, where tokens are not matched"
    )
    checkpoints: int | None = Field(default=None, description="judged of every cell")
    contrasts: list[list[str]] | None = Field(
        default=None, description="pairs of methods, declared beforehand, with the metric if it is not the headline"
    )
    protocol: str | None = Field(default=None, description="hash of that of a confirmation")
    finished: dict[str, dict[str, Any]] = Field(default_factory=dict, description="of rows that nothing is trained for")
    parts: dict[str, Identity] = Field(default_factory=dict, description="by sub-run's folder")

    def told(self) -> dict[str, Any]:
        """What it says, without what does not apply."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @property
    def fingerprint(self) -> str:
        return digest(self.told())

    def differences(self, other: Identity) -> list[str]:
        """The keys whose values differ, nested ones with their parents."""
        if bool(self.parts) != bool(other.parts):
            return ["the number of pairs or budgets"]
        return differences(self.told(), other.told())


def differences(one: dict[str, Any], other: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys whose values differ, nested ones with their parents."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        mine, theirs = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            found += differences(mine, theirs, f"{prefix}{key}.")
        elif mine != theirs:
            found.append(f"{prefix}{key}")
    return found


SEEN = ("contrast", "requests", "contrast_examples")
"""What of a training's identity only initialisations look at that contrast examples."""

INITIAL = ("saes", *SEEN, "planted", "sae_sets", "references", "architecture")
"""What only initialisations look at; of `sae_sets` and `references` each at those it names."""


def recipe_identity(recipe: Recipe, training: dict[str, Any]) -> str:
    """A hash of all that a recipe's cells depend on besides rate and seed, and of nothing that other recipes need.

    SAEs, contrast data and the source of the initialisation are in it where the recipe has one; the rest of the code is
    known by the package's version.
    """
    data = {key: value for key, value in training.items() if recipe.init or key not in INITIAL}
    start = load_initialisation(recipe)
    for key in ("sae_sets", "references", *(() if start.needs & CONTRASTED else SEEN)):
        data.pop(key, None)
    told = recipe.model_dump(mode="json", exclude={"description", "source", "learning_rate", "system_prompt"})
    code = []
    if recipe.init:
        if named := start.sae_set:
            data["sae_sets"] = {named: training["sae_sets"][named]}
        if "aligned_model" in start.needs:
            data["references"] = training["references"]
        code = [of_path(file) for file in source_files(recipe.init)]
    return digest([data, told, code])


def training_identity(pair: Pair, recipes: tuple[Recipe, ...]) -> dict[str, Any]:
    """What a cell depends on besides recipe, rate and seed. Raises UserError where the data cannot be read."""
    if pair.train is None:
        raise UserError("no training data; give --train FILE, or a pair that has the key 'train'")
    data: dict[str, Any] = {"train": read_examples(pair.train).sha256}
    starts = initialisations(recipes)
    if starts:
        data |= _initialisation_identity(pair, {start.sae_set for start in starts})
    if any(start.needs & CONTRASTED for start in starts):
        data |= _contrast_identity(pair)
    if any("aligned_model" in start.needs for start in starts):
        models = {name: Path(model) for name, model in pair.references.items()}
        data["references"] = {name: of_path(m) if m.is_dir() else str(m) for name, m in models.items()}
    settings = {
        "rank", "alpha", "target_modules", "tokens", "examples", "max_length",
        "batch_size", "micro_batch_size", "gradient_checkpointing",
    }  # fmt: skip
    alike = {
        key
        for key in ("optimiser", "regularise", "steps", "architecture")
        if getattr(pair, key) != Pair.model_fields[key].default
    }
    return {
        "model": model_identity(pair),
        "saes": _sae_identity(pair.saes),
        **data,
        **pair.model_dump(mode="json", include=settings | alike),
        "gradient_checkpointing": bool(pair.gradient_checkpointing),  # auto, too, stands for off
    }


def _initialisation_identity(pair: Pair, sae_sets: set[str | None]) -> dict[str, Any]:
    """What initialisations may look at besides the model and the pair's own SAEs, as far as the pair has it."""
    data: dict[str, Any] = {}
    if pair.planted is not None:
        if not pair.planted.is_file():
            raise UserError(f"{pair.planted}: no such file; correct key 'planted' of pair '{pair.name}'")
        data["planted"] = of_path(pair.planted)
    if further := sorted(name for name in sae_sets if name is not None):
        data["sae_sets"] = {name: _sae_identity(pair.sae_sources(name)) for name in further}
    return data


def _contrast_identity(pair: Pair) -> dict[str, Any]:
    """The examples that initialisations may contrast: those that are trained on at the pair's budget, which may not be
    the recipe's, or so many of a file's (all where nothing says how many, as before 0.3.0)."""
    if pair.contrast_examples == "sample":
        return {"contrast_examples": {"sample": pair.tokens, **({"steps": pair.steps} if pair.steps else {})}}
    data: dict[str, Any] = {} if pair.contrast_examples == "all" else {"contrast_examples": pair.contrast_examples}
    if pair.contrast is not None:
        data["contrast"] = read_contrast(pair.contrast).sha256
    if pair.requests is not None:
        data["requests"] = read_requests(pair.requests).sha256
    return data


def _sae_identity(saes: tuple[SaeSource, ...]) -> list[list[Any]]:
    return [[of_path(s.path) if s.path and s.path.is_dir() else s.name, s.layer] for s in saes]
