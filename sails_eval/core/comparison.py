"""What the user asked for: everything that `sails-eval compare` can be told, checked and frozen."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, model_validator

from sails_eval.core.data_source import ContrastExamples, Data
from sails_eval.core.device import check_device
from sails_eval.core.names import listed, names
from sails_eval.core.pair import EMBEDDED, MOST_ORGANISMS, joined, organisms
from sails_eval.core.recipe import defaults
from sails_eval.core.training_settings import Match, Names, Positive, Regularise, Settings, parse_regularise


def _regularisers(value: Any) -> Any:
    return parse_regularise(value) if isinstance(value, str) else value


Rate = Annotated[float, Field(gt=0, le=100)]


def _one_or_more(value: Any) -> Any:
    """A path alone as a list of one: it may hold spaces and commas."""
    return [value] if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_one_or_more)]

Places = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]
"""Texts that hold a path."""

Sizes = Annotated[tuple[Positive, ...], BeforeValidator(listed)]


def _rates(value: Any) -> Any:
    """`X`, or `METHOD=X,METHOD=X` as a mapping."""
    if not isinstance(value, str):
        return value
    try:
        if "=" not in value:
            return float(value)
        parts = [part.partition("=") for part in listed(value)]
        return {name: float(rate) for name, _, rate in parts}
    except ValueError:
        raise ValueError(f"'{value}' is not a learning rate; give X, such as 1e-4, or METHOD=X,METHOD=X") from None


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_in_words(one)}" for name, one in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


class CompareConfig(Settings):
    """Everything that `sails-eval compare` can be told; `None` or nothing means: as the pair has it.

    Flags have the same names, and `cli/flags.py` says what each is for. Several pairs, numbers of examples or of
    steps are as many comparisons in one run.
    """

    methods: Names = Field(default_factory=lambda: defaults().methods)
    pair: Annotated[str | None, BeforeValidator(joined)] = None
    organisms: int | None = Field(default=None, ge=1, le=MOST_ORGANISMS)
    model: str | None = None
    device: Annotated[str, AfterValidator(check_device)] | None = None
    sae: Paths = ()
    chat_template: Path | None = None
    train: Data | None = None
    contrast: Data | None = None
    contrast_examples: ContrastExamples | None = None
    tasks: Names | None = None
    judge: Annotated[str | None, BeforeValidator(joined)] = None
    allow_self_judging: bool = False
    trust_remote_code: bool = False
    calibration: Path | None = None
    tokens: int | None = Field(default=None, ge=1, le=10**12)
    examples: Sizes = ()
    steps: Sizes = ()
    match: Match = "tokens"
    match_params: bool = False
    regularise: Annotated[Regularise | None, BeforeValidator(_regularisers)] = None
    limit: int | None = Field(default=None, ge=1, le=10**9)
    protocol: Literal["explore", "confirm"] = "explore"
    seeds: int = Field(default=5, ge=1, le=10**4)
    tuning_seeds: int | None = Field(default=None, ge=1, le=10**4)
    learning_rates: int | None = Field(default=None, ge=1, le=1000)
    learning_rate: Annotated[Rate | dict[str, Rate] | None, BeforeValidator(_rates)] = None
    checkpoints: int = Field(default=1, ge=1, le=10**4)
    quick: bool = False
    comparisons: Names | None = Field(
        default=None,
        validation_alias=AliasChoices("comparisons", "contrasts"),  # its earlier name
    )
    add: Names = ()
    reference: Places = ()
    against: Path | None = None
    jobs: int = Field(default=1, ge=1, le=4096)
    engine: str = "auto"
    keep: Literal["best", "all", "none"] = "best"
    include_path: Paths = ()
    task_data: Places = ()
    trust_tasks: bool = False
    allow_overlap: bool = False
    allow_poor_saes: bool = False
    send_to: Names = ()
    out: Path | None = None

    @model_validator(mode="after")
    def _organisms_of_the_testbed(self) -> Self:
        if self.organisms and (self.model or self.pair not in (None, EMBEDDED)):
            raise ValueError(
                f"key 'organisms' works with the testbed only; leave out 'model', and 'pair' unless it is {EMBEDDED}"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps and self.tokens:
            raise ValueError("keys 'tokens' and 'steps' both set the length of training; leave one out")
        if self.steps and self.match != "tokens":
            raise ValueError(f"key 'match': {self.match} needs a budget in tokens; leave 'steps' out")
        return self

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs that `pair` names, or the testbed's organisms; the embedded one where no model is named either."""
        if self.organisms:
            return organisms(self.organisms)
        return names(self.pair or "") or ((EMBEDDED,) if self.model is None else ())

    @property
    def in_words(self) -> list[str]:
        """What is set instead of what the pair or the recipes have, as far as results depend on it: `rank 4`."""
        rates = {} if self.learning_rate is None else {"learning_rate": self.learning_rate}
        told = {key.replace("_", " "): value for key, value in {**self.telling, **rates}.items()}
        return [f"{key} {_in_words(value)}" for key, value in told.items()]

    def fixed_rate(self, method: str) -> float | None:
        """The learning rate that is given for a method instead of a grid."""
        given = self.learning_rate
        return given.get(method) if isinstance(given, dict) else given
