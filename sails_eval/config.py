"""What the user asked for: pairs, recipes and the comparison's configuration, checked and frozen.

Every YAML file and every flag ends in one of these models; an unknown key is an error that names the file.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sails_eval.alike import Match, Optimiser, Regularise, parse_regularise
from sails_eval.data.sources import Data, Unmixed, starting_at
from sails_eval.errors import UserError, unknown
from sails_eval.paths import PACKAGE, search_path
from sails_eval.schema import Frozen as Frozen
from sails_eval.schema import Model, Name
from sails_eval.schema import read_mapping as read_mapping
from sails_eval.schema import validate as validate


def _joined(value: Any) -> Any:
    """A list of names as text with commas, which YAML has no need of."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


PeftType = Literal["lora", "adalora", "delora", "hira", "ia3", "loha", "miss", "oft", "randlora", "road", "vera"]
"""Kinds of adapters, as PEFT calls them in lower case."""

RANKLESS = ("ia3", "oft", "randlora", "road", "vera")
"""Those without a rank, or with one that means something else than LoRA's."""

STARTS = r"gaussian|orthogonal|mica|olora|pissa(_niter_\d+)?"
"""What `init_lora_weights` may be besides true: what PEFT does with nothing but the weights at hand."""

Objective = Literal["sft", "dpo"]
"""The cross-entropy of chosen answers, or preferring them over rejected ones."""


class SaeSource(Frozen):
    """Where the SAE of one layer's output comes from: a SAELens folder, or a release and an id in its registry."""

    path: Path | None = None
    release: str | None = None
    id: str | None = None
    layer: int | None = Field(default=None, ge=0, description="only where the SAE's own metadata doesn't tell")
    trained_on: str | None = Field(
        default=None, description="the SAE's own model, where that is meant to be another than the pair's"
    )
    training_tokens: int | None = Field(default=None, ge=1, description="it was trained on; unknown where absent")
    self_trained: bool = Field(default=False, description="for this pair, so that its training counts as a cost")

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.self_trained and self.training_tokens is None:
            raise ValueError("key 'self_trained' charges a SAE's training; say its 'training_tokens', too")
        return self

    @property
    def name(self) -> str:
        return f"{self.release}/{self.id}" if self.path is None else self.path.name


class AttackData(Frozen):
    """What a fine-tuned model is re-tuned on, to see how long its alignment lasts: docs/durability.md."""

    benign: Data | None = Field(default=None, description="harmless requests, answered")
    harmful: Data | None = Field(default=None, description="harmful requests, complied with")

    def starting_at(self, here: Path) -> Self:
        """The same data, with relative paths starting at `here`."""
        given = {key: value for key in type(self).model_fields if (value := getattr(self, key)) is not None}
        return self.model_copy(update={key: starting_at(here, value) for key, value in given.items()})


class Pair(Frozen):
    """A base model with everything that belongs to it and is therefore the same for all methods."""

    name: Name
    description: str = ""
    model: str = Field(description="a folder, or a hub id")
    revision: str | None = None
    gated: bool = Field(default=False, description="the hub gives it only to those who accepted its licence")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attn_implementation: str | None = None
    chat_template: Path | None = Field(default=None, description="a Jinja file; the tokenizer's own where absent")
    saes: tuple[SaeSource, ...] = ()
    sae_sets: dict[str, tuple[SaeSource, ...]] = Field(
        default_factory=dict, description="further sets of SAEs by name, which a recipe's 'settings: saes' can ask for"
    )
    planted: Path | None = Field(
        default=None,
        description="a safetensors file of the subspaces planted into the model: layers.N, orthonormal [d_model, r]",
    )
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=16, ge=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    train: Data | None = Field(default=None, description="a file, hf:ORG/NAME[…], or a mapping: see docs/data.md")
    contrast: Data | None = None
    requests: Unmixed | None = Field(default=None, description="rows of a prompt and whether it is harmful")
    neutral: Unmixed | None = Field(
        default=None, description="rows of a text, harmless and not trained on: forgetting is measured there"
    )
    attack: AttackData = AttackData()
    references: dict[Name, str] = Field(
        default_factory=dict,
        description="finished models by name, which --reference NAME asks for; ./ is a folder here",
    )
    tasks: tuple[str, ...] = ()
    judge: Annotated[str | None, BeforeValidator(_joined)] = None
    reference_judge: str | None = Field(default=None, description="a judge whose agreement with the other is reported")
    tokens: int = Field(default=100_000, ge=1, description="non-padding prompt and answer tokens per cell")
    examples: int | None = Field(default=None, ge=1, description="labelled examples drawn per seed; all where absent")
    batch_size: int = Field(default=16, ge=1, description="examples per optimiser step")
    micro_batch_size: int | None = Field(default=None, ge=1, description="examples per forward pass; to save memory")
    gradient_checkpointing: bool = False
    optimiser: Optimiser = Field(default=Optimiser(), description="with schedule, clipping and decay; of all methods")
    regularise: Regularise | None = Field(default=None, description="what is added to the loss of all methods")
    max_length: int = Field(default=1024, ge=8, description="longest training example in tokens; longer ones are cut")
    eval_batch_size: int = Field(default=16, ge=1)
    engine: dict[str, Any] = Field(
        default_factory=dict,
        description="settings for vLLM, such as tensor_parallel_size; of these max_model_len bounds other engines, too",
    )
    learning_rate_scale: Annotated[float, Field(gt=0)] | dict[Objective, Annotated[float, Field(gt=0)]] = Field(
        default=1.0,
        description="factor on the rates of all recipes, whose spans suit models of billions; or one per objective",
    )

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self

    def __hash__(self) -> int:
        return hash((self.name, self.model))  # not of everything: dicts have no hash

    def rate_scale(self, objective: Objective) -> float:
        """The factor on the rates of recipes with this objective."""
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

DATA = ("train", "contrast", "requests")
"""The keys of a pair that name data for training."""


class Span(Frozen):
    """The lowest and the highest learning rate of a recipe's log-spaced grid."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)


PAIR_OWNS = frozenset(
    "r lora_alpha target_modules rank_pattern alpha_pattern modules_to_save layers_to_transform layers_pattern "
    "exclude_modules target_parameters trainable_token_indices bias lora_bias layer_replication "
    "init_r target_r total_step tinit tfinal alpha randlora_alpha lambda_pattern projection_prng_key".split()
)
"""Fields of PEFT's configs that decide how much is trained and where, or what a seed changes.

No recipe may set them but by `rank_factor`.
"""


def regularises(field: str) -> bool:
    """Whether a field of PEFT's configs adds a regulariser."""
    return "dropout" in field or field in ("orth_reg_weight", "coft")


class Dpo(Frozen):
    """Settings of the objective dpo, as TRL's DPOConfig has them; with its defaults (arXiv 2305.18290).

    `sft_weight` is that of the cross-entropy of chosen answers, which is added (Pang et al. 2024, arXiv 2404.19733).
    """

    beta: float = Field(default=0.1, gt=0, description="how much leaving the reference model costs")
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    sft_weight: float = Field(default=0.0, ge=0)


class Recipe(Frozen):
    """A method: what is trained, how it is initialised, and between which learning rates it is tuned."""

    name: Name
    description: str
    source: str = ""
    parameters: Literal["adapter", "modules", "all", "none"] = Field(
        description="an adapter on the pair's target modules, those modules in full, every weight, or nothing"
    )
    system_prompt: str = Field(default="", description="what stands before every request, where nothing is trained")
    objective: Objective = "sft"
    dpo: Dpo = Dpo()
    init: str | None = Field(default=None, description="a module of sails_eval.methods")
    settings: dict[str, Any] = Field(default_factory=dict, description="what the initialisation is told")
    peft_type: PeftType = Field(default="lora", description="the kind of adapter")
    rank_factor: float = Field(default=1.0, gt=0, description="the adapter's rank over the pair's; alpha grows alike")
    peft: dict[str, Any] = Field(default_factory=dict, description="further fields of PEFT's config of that kind")
    lr_ratio: float | None = Field(
        default=None, ge=1, description="the learning rate of lora_B over that of lora_A (LoRA+, arXiv 2402.12354)"
    )
    learning_rate: Span | None = Field(default=None, description="left out where nothing is trained")

    @property
    def trains(self) -> bool:
        return self.parameters != "none"

    def rank(self, pair: Pair) -> int:
        """The rank of its adapter on a pair."""
        return max(1, round(pair.rank * self.rank_factor))

    @property
    def span(self) -> Span:
        """The learning rates of a recipe that trains."""
        assert self.learning_rate is not None  # the check saw to it
        return self.learning_rate

    @model_validator(mode="after")
    def _prompt_or_training(self) -> Self:
        if self.trains == bool(self.system_prompt):
            raise ValueError("key 'system_prompt' goes with 'parameters: none', and that with it")
        if self.trains == (self.learning_rate is None):
            raise ValueError("key 'learning_rate' goes with what is trained, and with nothing else")
        return self

    @model_validator(mode="after")
    def _equal_budget(self) -> Self:
        if owned := sorted(PAIR_OWNS.intersection(self.peft)):
            raise ValueError(
                f"key 'peft': {', '.join(owned)} would break the equality of budgets; what is trained, rank and alpha "
                "belong to the pair, and draws to the seed"
            )
        if alone := sorted(key for key, value in self.peft.items() if value and regularises(key)):
            raise ValueError(
                f"key 'peft': {', '.join(alone)} would regularise one method only; what regularises is the same for "
                "all of them: --regularise, or key 'regularise' of the pair"
            )
        told = self.model_dump(exclude_defaults=True).keys()
        about_adapters = told & {"init", "peft", "peft_type", "rank_factor", "lr_ratio"}
        if self.parameters != "adapter" and about_adapters:
            named = ", ".join(f"'{key}'" for key in sorted(about_adapters))
            raise ValueError(f"key {named}: about adapters, but 'parameters' is {self.parameters}")
        if self.peft_type != "lora" and told & {"init", "lr_ratio"}:
            raise ValueError(f"keys 'init' and 'lr_ratio' are about LoRA, but 'peft_type' is {self.peft_type}")
        if self.peft_type in RANKLESS and self.rank_factor != 1:
            raise ValueError(f"key 'rank_factor': adapters of peft_type {self.peft_type} do not have the pair's rank")
        if self.objective != "dpo" and self.dpo != Dpo():
            raise ValueError(f"key 'dpo' is about the objective dpo, but 'objective' is {self.objective}")
        if self.learning_rate is not None and self.learning_rate.high < self.learning_rate.low:
            raise ValueError("key 'learning_rate': high is below low")
        return self

    @model_validator(mode="after")
    def _same_at_step_0(self) -> Self:
        start = self.peft.get("init_lora_weights", True)
        if self.init and "init_lora_weights" in self.peft:
            raise ValueError(f"key 'peft': init_lora_weights={start} is a start of its own beside init={self.init}")
        for key in ("init_weights", "init_ia3_weights"):
            if self.peft.get(key, True) is not True:
                raise ValueError(
                    f"key 'peft': {key}={self.peft[key]} may change what the model says before it is trained"
                )
        if start is not True and not re.fullmatch(STARTS, str(start)):
            raise ValueError(
                f"key 'peft': init_lora_weights={start} is none of the starts that PEFT makes of the weights alone and "
                "that leave the model's answers as they are: gaussian, orthogonal, mica, olora, pissa, pissa_niter_N; "
                "others, such as eva and corda, are named by key 'init'"
            )
        if self.objective == "dpo" and self.peft_type == "adalora":
            raise ValueError(
                "objective dpo wants a frozen copy of the adapter, and PEFT lets adalora have no second one"
            )
        if self.objective == "dpo" and str(start).startswith(("pissa", "olora")):
            raise ValueError(
                f"key 'peft': init_lora_weights={start} changes the base weights, which the reference of objective dpo "
                "stands on"
            )
        return self


def _regularisers(value: Any) -> Any:
    """`kl=0.1` as a mapping."""
    return parse_regularise(value) if isinstance(value, str) else value


def _several(value: Any) -> Any:
    """A number or a name alone as a list of one."""
    return [value] if isinstance(value, (int, str)) else value


class CompareConfig(Frozen):
    """Everything that `sails-eval compare` can be told; `None` or nothing means: as the pair has it.

    Flags have the same names. Several pairs or several numbers of examples are as many comparisons in one run.
    """

    methods: tuple[str, ...] = ("sails", "lora", "full")
    pair: Annotated[str | None, BeforeValidator(_joined)] = Field(
        default=None, description="one, or several between commas"
    )
    model: str | None = None
    sae: tuple[Path, ...] = ()
    chat_template: Path | None = None
    train: Data | None = None
    contrast: Data | None = None
    tasks: tuple[str, ...] | None = None
    judge: Annotated[str | None, BeforeValidator(_joined)] = Field(
        default=None, description="one, or a panel between commas"
    )
    allow_self_judging: bool = Field(default=False, description="let a judge be the evaluated model itself")
    trust_remote_code: bool = Field(default=False, description="let zoo judges run code from their repositories")
    calibration: Path | None = Field(default=None, description="of the judge, by `judge calibrate`; boards name it")
    tokens: int | None = Field(default=None, ge=1)
    examples: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several)] = ()
    match: Match = Field(default="tokens", description="what every cell gets the same amount of")
    match_params: bool = Field(default=False, description="give adapters the rank at which they train as much as LoRA")
    regularise: Annotated[Regularise | None, BeforeValidator(_regularisers)] = None
    limit: int | None = Field(default=None, ge=1, description="only the first documents of every task and split")
    seeds: int = Field(default=5, ge=1)
    learning_rates: int = Field(default=6, ge=1)
    checkpoints: int = Field(default=1, ge=1, description="of each cell, of which the best one on validation counts")
    quick: bool = False
    contrasts: tuple[str, ...] | None = Field(default=None, description="a:b, the differences that are tested")
    add: tuple[str, ...] = Field(default=(), description="methods besides those of the run `against`")
    reference: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        default=(),
        description="finished models that are rows, too: a folder, a hub id, openai:MODEL, or one of the pair's",
    )
    against: Path | None = Field(default=None, description="a finished run whose cells are reused where they are same")
    jobs: int = Field(default=1, ge=1)
    engine: str = Field(default="auto", description="what answers: auto, hf, vllm or openai:BASE_URL")
    keep: Literal["best", "all", "none"] = "best"
    include_path: tuple[Path, ...] = ()
    task_data: tuple[str, ...] = Field(default=(), description="NAME=FILE, local copies of tasks' data")
    allow_overlap: bool = Field(default=False, description="train even on many of the prompts that are asked")
    send_to: tuple[str, ...] = Field(default=(), description="hosts that may get the prompts of gated sets")
    out: Path | None = None

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs that `pair` names; the embedded one where no other model is named either."""
        names = tuple(name.strip() for name in (self.pair or "").split(",") if name.strip())
        return names or ((EMBEDDED,) if self.model is None else ())


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
        if "like" in read_mapping(_pair_file(str(like), here)):
            raise UserError(f"{path}: key 'like': {like} is itself like another pair; name that one")
        other = load_pair(str(_pair_file(str(like), here))).model_dump()
    pair = validate(Pair, {**other, "name": path.stem, **own}, where=str(path))
    return pair.model_copy(
        update={
            "model": _from(here, pair.model),
            "saes": _starting_at(here, pair.saes),
            "sae_sets": {name: _starting_at(here, saes) for name, saes in pair.sae_sets.items()},
            "references": {name: _from(here, model) for name, model in pair.references.items()},
            **{
                key: (here / value).resolve()
                for key in ("chat_template", "planted")
                if (value := getattr(pair, key)) is not None
            },
            **{key: starting_at(here, data) for key in (*DATA, "neutral") if (data := getattr(pair, key)) is not None},
            "attack": pair.attack.starting_at(here),
        }
    )


def _from(here: Path, model: str) -> str:
    """A model as it is named, or its folder, which may be relative to `here`, in full."""
    return str((here / model).resolve()) if model.startswith(("./", "../", "/")) else model


def _pair_file(name: str, here: Path) -> Path:
    """The file of a pair, given by the name of a shipped one or by a path from `here`."""
    if name.endswith((".yaml", ".yml")):
        return here / name
    path = PACKAGE / "pairs" / f"{name}.yaml"
    if not path.is_file():
        raise unknown("pair", name, [file.stem for file in path.parent.glob("*.yaml")])
    return path


def _starting_at(here: Path, saes: tuple[SaeSource, ...]) -> tuple[SaeSource, ...]:
    """The same sources, with relative paths starting at `here`."""
    return tuple(sae.model_copy(update={"path": (here / sae.path).resolve()}) if sae.path else sae for sae in saes)


def load_recipe(name: str) -> Recipe:
    """A recipe by name (bundled or in ./adapters), or by the path of its YAML.

    A recipe that is `like` another one says only in what it differs, in `settings` and `peft` key by key. Raises
    UserError where there is none, two unlike ones have the name, or it would break the equality of budgets.
    """
    path = recipe_file(name)
    own = read_mapping(path)
    other: dict[str, Any] = {}
    if like := own.pop("like", None):
        other = read_mapping(recipe_file(str(like), path.parent))
        if "like" in other:
            raise UserError(f"{path}: key 'like': {like} is itself like another recipe; name that one")
        for key in ("settings", "peft"):
            if isinstance(own.get(key), dict):
                own[key] = {**other.get(key, {}), **own[key]}
    return validate(Recipe, {**other, "name": path.stem, **own}, where=str(path))


def recipe_file(name: str, here: Path = Path()) -> Path:
    """The file of a recipe, given by the name of one on the search path or by a path from `here`."""
    files = [path for folder in search_path("adapters") for path in sorted(folder.glob("*.yaml"))]
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
                f"recipe '{name}': key 'learning_rate' spans a factor of {other:g}, '{first}' one of {ratio:g}; "
                "budgets are equal only if every grid spans the same factor"
            )
