"""Recipes: what a method trains, how it is initialised, and between which learning rates it is tuned."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.pair import Pair, read_yaml
from sails_eval.core.paths import bundled, search_path
from sails_eval.core.schema import Frozen, Name, read_mapping, validate
from sails_eval.core.training_settings import Objective

PeftType = Literal["lora", "adalora", "delora", "hira", "ia3", "loha", "miss", "oft", "randlora", "road", "vera"]
"""Kinds of adapters, as PEFT calls them in lower case."""

RANKLESS = ("ia3", "oft", "randlora", "road", "vera")
"""Those without a rank, or with one that means something else than LoRA's."""

STARTS = r"gaussian|orthogonal|mica|olora|pissa(_niter_\d+)?"
"""What `init_lora_weights` may be besides true: what PEFT does with nothing but the weights at hand."""


class Span(Frozen):
    """The lowest and the highest learning rate of a recipe's log-spaced grid."""

    low: float = Field(gt=0, le=100, description="lowest learning rate")
    high: float = Field(gt=0, le=100, description="highest learning rate; high / low is the same for all recipes")


PAIR_OWNS = frozenset(
    "r lora_alpha target_modules rank_pattern alpha_pattern modules_to_save layers_to_transform layers_pattern "
    "exclude_modules target_parameters trainable_token_indices bias lora_bias layer_replication "
    "init_r target_r total_step tinit tfinal alpha randlora_alpha lambda_pattern projection_prng_key".split()
)
"""Fields of PEFT's configs that decide how much is trained and where, or what a seed changes.

No recipe may set them but by `rank_factor`.
"""

MACHINERY = frozenset(
    ("runtime_config", "megatron_config", "megatron_core", "inference_mode", "peft_type", "task_type")
)
"""Fields of PEFT's configs that say how adapters are run, not what they are."""


def regularises(field: str) -> bool:
    return "dropout" in field or field in ("orth_reg_weight", "coft")


class Dpo(Frozen):
    """Settings of the objective dpo, as TRL's DPOConfig has them; with its defaults (arXiv 2305.18290).

    `sft_weight` is that of the cross-entropy of chosen answers, which is added (Pang et al. 2024, arXiv 2404.19733).
    """

    beta: float = Field(default=0.1, gt=0, description="strength of the penalty for deviating from the reference model")
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = Field(default="sigmoid", description="type of the loss")
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of preferences assumed to be mislabelled"
    )
    sft_weight: float = Field(default=0.0, ge=0, description="weight of the cross-entropy of chosen answers")


class Recipe(Frozen):
    """A method: what is trained, how it is initialised, and between which learning rates it is tuned."""

    name: Name = Field(description="name of its row; default: the name of the file")
    description: str = Field(description="one line, shown in lists")
    source: str = Field(default="", description="paper or package that the method comes from")
    parameters: Literal["adapter", "modules", "all", "none"] = Field(
        description="what is trained: an adapter on the pair's target modules, these modules, all weights, or none"
    )
    system_prompt: str = Field(default="", description="system prompt before every request; only with parameters: none")
    objective: Objective = Field(default="sft", description="sft (chosen answers) or dpo (preferences)")
    dpo: Dpo = Field(default=Dpo(), description="settings of objective dpo")
    init: str | None = Field(default=None, description="initialisation: a module of sails_eval.methods, or a plug-in")
    settings: dict[str, Any] = Field(default_factory=dict, description="settings of the initialisation")
    peft_type: PeftType = Field(default="lora", description="type of adapter, as in PEFT")
    rank_factor: float = Field(default=1.0, gt=0, le=1000, description="factor on the pair's rank, and on alpha")
    peft: dict[str, Any] = Field(default_factory=dict, description="additional fields of PEFT's config for this type")
    lr_ratio: float | None = Field(
        default=None, ge=1, description="learning rate of lora_B divided by that of lora_A (LoRA+, arXiv 2402.12354)"
    )
    examples: Literal["pair", "contrast"] = Field(
        default="pair",
        description="labelled examples drawn per seed: the pair's number, or that plus the number that others contrast",
    )
    learning_rate: Span | None = Field(default=None, description="range of learning rates; only for methods that train")

    @property
    def trains(self) -> bool:
        return self.parameters != "none"

    def rank(self, pair: Pair) -> int:
        return max(1, round(pair.rank * self.rank_factor))

    @property
    def span(self) -> Span:
        """The learning rates of a recipe that trains."""
        assert self.learning_rate is not None  # the check saw to it
        return self.learning_rate

    @model_validator(mode="after")
    def _prompt_or_training(self) -> Self:
        if self.trains == bool(self.system_prompt):
            raise ValueError("key 'system_prompt' is required with 'parameters: none', and not allowed without it")
        if self.trains == (self.learning_rate is None):
            raise ValueError("key 'learning_rate' is required if anything is trained, and not allowed otherwise")
        return self

    @model_validator(mode="after")
    def _equal_budget(self) -> Self:
        if owned := sorted(PAIR_OWNS.intersection(self.peft)):
            raise ValueError(
                f"key 'peft': {', '.join(owned)} cannot be set here, since budgets would no longer be equal; rank, "
                "alpha and target modules are set by the pair (see also: key 'rank_factor')"
            )
        if machinery := sorted(MACHINERY.intersection(self.peft)):
            raise ValueError(f"key 'peft': {', '.join(machinery)} cannot be set by a method; leave it out")
        if alone := sorted(key for key, value in self.peft.items() if value and regularises(key)):
            raise ValueError(
                f"key 'peft': {', '.join(alone)} would regularise one method only; regularise all methods alike, by "
                "--regularise or key 'regularise' of the pair"
            )
        told = self.model_dump(exclude_defaults=True).keys()
        about_adapters = told & {"init", "peft", "peft_type", "rank_factor", "lr_ratio"}
        if self.parameters != "adapter" and about_adapters:
            named = ", ".join(f"'{key}'" for key in sorted(about_adapters))
            raise ValueError(f"key {named}: only for 'parameters: adapter', but 'parameters' is {self.parameters}")
        if self.peft_type != "lora" and told & {"init", "lr_ratio"}:
            raise ValueError(f"keys 'init' and 'lr_ratio' are for LoRA only, but 'peft_type' is {self.peft_type}")
        if self.peft_type in RANKLESS and self.rank_factor != 1:
            raise ValueError(f"key 'rank_factor': adapters of peft_type {self.peft_type} do not use the pair's rank")
        if self.objective != "dpo" and self.dpo != Dpo():
            raise ValueError(f"key 'dpo' is for 'objective: dpo' only, but 'objective' is {self.objective}")
        if self.learning_rate is not None and self.learning_rate.high < self.learning_rate.low:
            raise ValueError("key 'learning_rate': high is below low")
        return self

    @model_validator(mode="after")
    def _same_at_step_0(self) -> Self:
        start = self.peft.get("init_lora_weights", True)
        if self.settings and not self.init:
            raise ValueError("key 'settings' needs key 'init', whose settings they are; add 'init: NAME'")
        if self.init and "init_lora_weights" in self.peft:
            raise ValueError(
                f"key 'peft': init_lora_weights={start} and init={self.init} are both initialisations; leave one out"
            )
        for key in ("init_weights", "init_ia3_weights"):
            if self.peft.get(key, True) is not True:
                raise ValueError(
                    f"key 'peft': {key}={self.peft[key]} may change the model's outputs before training; leave it out"
                )
        if start is not True and not re.fullmatch(STARTS, str(start)):
            raise ValueError(
                f"key 'peft': init_lora_weights={start} is not one of PEFT's initialisations that need only the "
                "weights and keep the model's outputs: gaussian, orthogonal, mica, olora, pissa, pissa_niter_N; for "
                "others use key 'init'"
            )
        if self.objective == "dpo" and self.peft_type == "adalora":
            raise ValueError(
                "objective dpo needs a frozen copy of the adapter, which PEFT does not allow for adalora; use another "
                "peft_type or objective"
            )
        if self.objective == "dpo" and str(start).startswith(("pissa", "olora")):
            raise ValueError(
                f"key 'peft': init_lora_weights={start} changes the base weights, which objective dpo needs unchanged "
                "as its reference; use another initialisation or objective"
            )
        return self


class Defaults(Frozen):
    """What a comparison takes where nobody says: its methods, the one that all others are tested against, and the
    comparisons of the protocol `confirm`."""

    methods: tuple[str, ...]
    compared: str
    confirm: tuple[str, ...]


@cache
def defaults() -> Defaults:
    """The shipped defaults, in `adapters/_default.yaml`."""
    return read_yaml(bundled("adapters") / "_default.yaml", Defaults)


def load_recipe(name: str) -> Recipe:
    """A recipe by name (bundled or in ./adapters), or by the path of its YAML.

    A recipe that is `like` another one says only in what it differs, in `settings` and `peft` key by key. Raises
    UserError where there is none, two unlike ones have the name, or it would break the equality of budgets.
    """
    path = recipe_file(name)
    own = read_mapping(path)
    other: dict[str, Any] = {}
    if like := own.pop("like", None):
        try:
            other = read_mapping(recipe_file(str(like), path.parent))
        except UserError as error:
            raise UserError(f"{path}: key 'like': {error}") from error
        if "like" in other:
            raise UserError(f"{path}: key 'like': {like} itself has the key 'like'; name the recipe that it refers to")
        for key in ("settings", "peft"):
            if isinstance(own.get(key), dict) and isinstance(other.get(key), dict):
                own[key] = {**other[key], **own[key]}
    return validate(Recipe, {**other, "name": path.stem, **own}, where=str(path))


def recipe_files() -> list[Path]:
    """The files of all recipes on the search path; a name that begins with _ is of something else."""
    return [path for folder in search_path("adapters") for path in sorted(folder.glob("[!_]*.yaml"))]


def recipe_file(name: str, here: Path = Path()) -> Path:
    """The file of a recipe, given by the name of one on the search path or by a path from `here`."""
    files = recipe_files()
    found = [here / name] if name.endswith((".yaml", ".yml")) else [path for path in files if path.stem == name]
    if not found:
        raise unknown("method", name, {path.stem for path in files})
    path = found[0]
    for other in found[1:]:
        if other.read_bytes() != path.read_bytes():
            raise UserError(f"two files define the method '{name}': {path} and {other}; rename one of them")
    return path


def check_equal_spans(recipes: tuple[Recipe, ...]) -> None:
    """Refuse recipes whose learning-rate grids have unlike ratios: one method would be tuned more finely."""
    ratios = {recipe.name: recipe.span.high / recipe.span.low for recipe in recipes if recipe.trains}
    first, ratio = next(iter(ratios.items()))
    for name, other in ratios.items():
        if abs(other / ratio - 1) > 1e-6:
            raise UserError(
                f"recipe '{name}': key 'learning_rate' spans a factor of {other:g}, that of '{first}' {ratio:g}; "
                "change one of them: tuning budgets are equal only if all ranges span the same factor"
            )
