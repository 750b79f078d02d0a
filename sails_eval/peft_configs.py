"""PEFT configs of recipes: rank, α and modules from the pair, the rest from the recipe.

Every kind of adapter here is a `peft_type` that a recipe can name; PEFT does the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

from peft import AdaLoraConfig, IA3Config, LoraConfig, OFTConfig, PeftConfig, VeraConfig, get_peft_model

from sails_eval.config import Pair, PeftType, Recipe
from sails_eval.errors import UserError, first_line, unknown

NOT_TEXT = r"\b(?:vision_tower|audio_tower|multi_modal_projector)\b"
"""Parts of a model that no text goes through: they are neither adapted nor trained."""

START = "_start_of_training"
"""Attribute of an adapted model whose base weights are not the bare model's: the folder with the adapter at step 0."""

INCREMENT = 1.5
"""The rank that AdaLoRA starts from, as a multiple of the rank that it ends at (arXiv 2303.10512, section 4)."""


@dataclass(frozen=True)
class Kind:
    """A kind of adapter: PEFT's config, and which of its fields the pair's rank and α fill in."""

    config: type[PeftConfig]
    ranked: Callable[[int, float, int], dict[str, Any]] = lambda rank, alpha, steps: {}


def _adalora(rank: int, alpha: float, steps: int) -> dict[str, Any]:
    """Ranks are cut between the first tenth and the last third of the steps."""
    start = max(rank + 1, round(INCREMENT * rank))
    schedule = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3}
    return {"target_r": rank, "init_r": start, "lora_alpha": alpha, **schedule}


KINDS: dict[PeftType, Kind] = {
    "lora": Kind(LoraConfig, lambda rank, alpha, steps: {"r": rank, "lora_alpha": alpha}),
    "adalora": Kind(AdaLoraConfig, _adalora),
    "ia3": Kind(IA3Config),
    "oft": Kind(OFTConfig),
    "vera": Kind(VeraConfig),
}


def saved_rank(pair: Pair, recipe: Recipe) -> int:
    """The rank at which a recipe's adapters are saved: twice its own where they hold what the base lost, too."""
    return recipe.rank(pair) * (2 if changes_base(pair, recipe) else 1)


def changes_base(pair: Pair, recipe: Recipe) -> bool:
    """Whether training changes weights that the base model has, or its initialisation does."""
    from sails_eval.methods import load_initialisation

    if recipe.parameters != "adapter":
        return True
    own = recipe.init is not None and getattr(load_initialisation(recipe.init), "MUTATES_BASE", False)
    return own or mutates_base(adapter_config(pair, recipe))


def adapter_config(pair: Pair, recipe: Recipe, *, steps: int = 10) -> Any:
    """The PEFT config of a recipe's adapters; `steps` is how long one is trained, which AdaLoRA has to know.

    α grows with the rank, so α/r is the pair's. Raises UserError for a field that PEFT lacks, and for a value that it
    refuses.
    """
    kind = KINDS[recipe.peft_type]
    known = {field.name for field in fields(kind.config)}
    for name in recipe.peft:
        if name not in known:
            raise unknown(f"key in 'peft' of recipe '{recipe.name}':", name, known)
    rank = recipe.rank(pair)
    alpha = pair.alpha * rank / pair.rank
    own = kind.ranked(rank, int(alpha) if alpha == int(alpha) else alpha, steps)
    try:
        return kind.config(task_type="CAUSAL_LM", target_modules=list(pair.target_modules), **own, **recipe.peft)
    except (ValueError, TypeError) as error:
        raise UserError(f"recipe '{recipe.name}': key 'peft': {first_line(error)}") from error


def add_adapter(model: Any, config: Any) -> Any:
    """A fresh adapter on the model's text part; modules of the same names in a vision tower (Gemma 3) get none."""
    if any(re.search(NOT_TEXT, name) for name, _ in model.named_modules()):
        if not hasattr(config, "exclude_modules"):
            raise UserError(
                f"PEFT cannot keep {config.peft_type.value} off the model's vision tower; leave it out here"
            )
        config = replace(config, exclude_modules=f".*{NOT_TEXT}.*")
    return get_peft_model(model, config)


def is_own(name: str, model: Any) -> bool:
    """Whether a parameter is the adapter's, and not one that the model has without it."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)  # as PEFT's tuners call their parameters
    return prefix is not None and prefix in name


def mutates_base(config: Any) -> bool:
    """Whether PEFT's own initialisation changes the base weights (pissa, olora, corda): others leave them."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start.startswith(("pissa", "olora", "corda", "loftq"))
