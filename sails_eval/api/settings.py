"""The keyword arguments of `compare` and `evaluate`, by type; what each is for, the flag of its name says.

They are the keys of `CompareConfig`, which checks their values. Editors complete them from the types here, notebooks
from the signature that `with_keys` makes of these.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_type_hints

from sails_eval.core.comparison import CompareConfig

Function = TypeVar("Function", bound=Callable[..., Any])
PathLike = str | Path
Data = PathLike | Mapping[str, Any]
"""A file, hf:ORG/NAME[…], or a mapping that chooses rows or mixes sources (see: sails-eval docs data)."""


class _Settings(TypedDict, total=False):
    """What `compare` and `evaluate` have in common."""

    model: str
    chat_template: PathLike
    tasks: Sequence[str]
    include_path: Sequence[PathLike]
    task_data: Sequence[str]
    trust_tasks: bool
    send_to: Sequence[str]
    limit: int
    judge: str | Sequence[str]
    allow_self_judging: bool
    trust_remote_code: bool
    calibration: PathLike
    engine: str
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    attn_implementation: str
    max_new_tokens: int
    eval_batch_size: int | Literal["auto"]
    end_loops: bool
    out: PathLike


class EvaluationSettings(_Settings, total=False):
    """What `evaluate` can be told."""

    pair: str


class ComparisonSettings(_Settings, total=False):
    """What `compare` can be told: all keys of `CompareConfig`."""

    pair: str | Sequence[str]
    methods: Sequence[str]
    organisms: int
    sae: Sequence[PathLike]
    train: Data
    contrast: Data
    contrast_examples: int | Literal["sample", "all"]
    tokens: int
    examples: int | Sequence[int]
    steps: int | Sequence[int]
    rank: int
    alpha: int
    target_modules: Sequence[str]
    batch_size: int
    micro_batch_size: int | Literal["auto"]
    gradient_checkpointing: bool | Literal["auto"]
    max_length: int
    match: Literal["tokens", "flops", "seconds"]
    match_params: bool
    regularise: str | Mapping[str, float]
    protocol: Literal["explore", "confirm"]
    seeds: int
    tuning_seeds: int
    learning_rates: int
    learning_rate: float | Mapping[str, float]
    checkpoints: int
    quick: bool
    comparisons: Sequence[str]
    add: Sequence[str]
    reference: str | Sequence[str]
    against: PathLike
    jobs: int
    keep: Literal["best", "all", "none"]
    allow_overlap: bool
    allow_poor_saes: bool


def with_keys(function: Function) -> Function:
    """The function, whose `**settings` its signature now has key by key, with the defaults of `CompareConfig`."""
    (settings,) = get_args(get_type_hints(function)["settings"])
    own = [one for one in inspect.signature(function).parameters.values() if one.name != "settings"]
    fields = CompareConfig.model_fields
    keys = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=fields[name].get_default(call_default_factory=True),
            annotation=kind,
        )
        for name, kind in get_type_hints(settings).items()
    ]
    returns = get_type_hints(function)["return"]
    function.__signature__ = inspect.Signature([*own, *keys], return_annotation=returns)  # type: ignore[attr-defined]
    return function
