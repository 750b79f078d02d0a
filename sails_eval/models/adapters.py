"""PEFT configs of recipes: rank, α and modules from the pair, the rest from the recipe.

Every kind of adapter here is a `peft_type` that a recipe can name; PEFT does the rest.
"""

import re
import warnings
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch
from peft import get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import PeftType as Kinds
from transformers.pytorch_utils import Conv1D

from sails_eval.core.errors import UserError, as_user_error, unknown
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import PAIR_OWNS, Recipe, regularises
from sails_eval.models.layers import LINEAR, NOT_TEXT


def _ranked(pair: Pair, recipe: Recipe, steps: int) -> dict[str, Any]:
    """The fields of PEFT's config that the pair's rank and α fill in; of some kinds none."""
    kind, rank = recipe.peft_type, recipe.rank(pair)
    if kind == "adalora":  # ranks are cut between the first tenth and the last third of the steps
        start = max(rank + 1, round(1.5 * rank))  # as in arXiv 2303.10512, section 4; PEFT's scale is α over it
        schedule = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 3}
        alike = {"orth_reg_weight": 0.0}  # regularisers are the same for all methods
        return {"target_r": rank, "init_r": start, "lora_alpha": _alpha(pair, start), **schedule, **alike}
    if kind in ("lora", "loha"):
        return {"r": rank, "lora_alpha" if kind == "lora" else "alpha": _alpha(pair, rank)}
    return {"r": rank} if kind in ("delora", "hira", "miss") else {}


def _alpha(pair: Pair, rank: int) -> float:
    """α at a rank, so that α/r is the pair's; a whole number where it is one."""
    alpha = pair.alpha / pair.rank * rank
    return int(alpha) if alpha == int(alpha) else alpha


def adapter_config(pair: Pair, recipe: Recipe, *, steps: int = 10, seed: int = 0) -> Any:
    """The PEFT config of a recipe's adapters; `steps` is how long one is trained, which AdaLoRA has to know.

    α grows with the rank, so α/r is the pair's. Raises UserError for a field that PEFT does not have,
    and for a value that it refuses.
    """
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[Kinds(recipe.peft_type.upper())]
    known = {field.name for field in fields(kind)}
    for name in recipe.peft:
        if name not in known:
            settable = {name for name in known - PAIR_OWNS if not regularises(name)}
            raise unknown(f"key in 'peft' of recipe '{recipe.name}':", name, settable)
    drawn = "projection_prng_key"  # of kinds that draw random matrices of their own: VeRA, RandLoRA
    own = _ranked(pair, recipe, steps) | ({drawn: seed} if drawn in known else {})
    with as_user_error(f"recipe '{recipe.name}': key 'peft'", "correct it"):
        return kind(task_type="CAUSAL_LM", target_modules=list(pair.target_modules), **{**own, **recipe.peft})


def add_adapter(model: Any, config: Any) -> Any:
    """A fresh adapter on the model's text part."""
    config = on_text(config, model)
    with (
        as_user_error("key 'peft': PEFT cannot make such an adapter", "check its fields"),  # not all before now
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # which PEFT sets to what a module needs
        return get_peft_model(model, config)


def on_text(config: Any, model: Any) -> Any:
    """A PEFT config by which modules of the same names in a model's vision tower (Gemma 3) get no adapter."""
    if not any(re.search(NOT_TEXT, name) for name, _ in model.named_modules()):
        return config
    if not hasattr(config, "exclude_modules"):
        raise UserError(f"PEFT cannot keep {config.peft_type.value} off the model's vision tower; leave it out here")
    return replace(config, exclude_modules=f".*{NOT_TEXT}.*")


def is_target(name: str, pair: Pair) -> bool:
    """Whether a module is one of the pair's target modules, which are named by the ends of their paths."""
    return f".{name}".endswith(tuple(f".{target}" for target in pair.target_modules))


def target_modules(model: Any, pair: Pair) -> dict[str, Any]:
    """The bare model's modules that adapters go onto, by name."""
    return {name: module for name, module in linear_modules(model).items() if is_target(name, pair)}


def linear_modules(model: Any) -> dict[str, Any]:
    """The modules of a bare model's text part that adapters can be put on, by name."""
    return {name: module for name, module in text_modules(model) if isinstance(module, LINEAR)}


def text_modules(model: Any) -> Iterator[tuple[str, Any]]:
    """The modules of the text part of a bare model, by name."""
    return ((name, module) for name, module in model.named_modules() if not re.search(NOT_TEXT, name))


def sizes(module: Any) -> tuple[int, int]:
    """(d_in, d_out) of a linear module."""
    return (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)


def lying_as(module: Any, weights: torch.Tensor) -> torch.Tensor:
    """Weights [d_out, d_in] as those of a linear module lie, or the other way round: a Conv1D's are [d_in, d_out]."""
    return weights.T if isinstance(module, Conv1D) else weights


def is_own(name: str, model: Any) -> bool:
    """Whether a parameter is the adapter's, and not one that the model has without it."""
    prefix = getattr(getattr(model, "base_model", None), "prefix", None)  # as PEFT's tuners call their parameters
    return prefix is not None and (prefix in name or ".ranknum." in name)  # AdaLoRA's constants


def mutates_base(config: Any) -> bool:
    """Whether PEFT's own initialisation changes the base weights (pissa, olora, corda): others leave them."""
    start = getattr(config, "init_lora_weights", None)
    return isinstance(start, str) and start.startswith(("pissa", "olora", "corda"))
