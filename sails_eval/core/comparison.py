"""What the user asked for: everything that `sails-eval compare` can be told, checked and frozen."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from sails_eval.core.data_source import ContrastExamples, Data
from sails_eval.core.names import names
from sails_eval.core.pair import EMBEDDED, MOST_ORGANISMS, joined, organisms
from sails_eval.core.recipe import defaults
from sails_eval.core.schema import Frozen
from sails_eval.core.training_settings import Match, Regularise, parse_regularise


def _regularisers(value: Any) -> Any:
    return parse_regularise(value) if isinstance(value, str) else value


def _several(value: Any) -> Any:
    """A number or a name alone as a list of one."""
    return [value] if isinstance(value, (int, str)) else value


class CompareConfig(Frozen):
    """Everything that `sails-eval compare` can be told; `None` or nothing means: as the pair has it.

    Flags have the same names, and `cli/flags.py` says what each is for. Several pairs, numbers of examples or of
    steps are as many comparisons in one run.
    """

    methods: tuple[str, ...] = Field(default_factory=lambda: defaults().methods)
    pair: Annotated[str | None, BeforeValidator(joined)] = None
    organisms: int | None = Field(default=None, ge=1, le=MOST_ORGANISMS)
    model: str | None = None
    sae: tuple[Path, ...] = ()
    chat_template: Path | None = None
    train: Data | None = None
    contrast: Data | None = None
    contrast_examples: ContrastExamples | None = None
    tasks: tuple[str, ...] | None = None
    judge: Annotated[str | None, BeforeValidator(joined)] = None
    allow_self_judging: bool = False
    trust_remote_code: bool = False
    calibration: Path | None = None
    tokens: int | None = Field(default=None, ge=1)
    examples: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several)] = ()
    steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_several)] = ()
    match: Match = "tokens"
    match_params: bool = False
    regularise: Annotated[Regularise | None, BeforeValidator(_regularisers)] = None
    limit: int | None = Field(default=None, ge=1)
    protocol: Literal["explore", "confirm"] = "explore"
    seeds: int = Field(default=5, ge=1)
    tuning_seeds: int | None = Field(default=None, ge=1)
    learning_rates: int | None = Field(default=None, ge=1)
    checkpoints: int = Field(default=1, ge=1)
    quick: bool = False
    comparisons: tuple[str, ...] | None = Field(
        default=None,
        validation_alias=AliasChoices("comparisons", "contrasts"),  # its earlier name
    )
    add: tuple[str, ...] = ()
    reference: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    against: Path | None = None
    jobs: int = Field(default=1, ge=1)
    engine: str = "auto"
    keep: Literal["best", "all", "none"] = "best"
    include_path: tuple[Path, ...] = ()
    task_data: tuple[str, ...] = ()
    allow_overlap: bool = False
    send_to: tuple[str, ...] = ()
    out: Path | None = None

    @model_validator(mode="after")
    def _organisms_of_the_testbed(self) -> Self:
        if self.organisms and (self.model or self.pair not in (None, EMBEDDED)):
            raise ValueError(f"key 'organisms': so many of the testbed, so no 'model', and no 'pair' but {EMBEDDED}")
        return self

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps and self.tokens:
            raise ValueError("keys 'tokens' and 'steps' both say how long a cell is trained; leave one out")
        if self.steps and self.match != "tokens":
            raise ValueError(f"key 'match': {self.match} gives every method tokens of its own; leave 'steps' out")
        return self

    @property
    def pairs(self) -> tuple[str, ...]:
        """The pairs that `pair` names, or the testbed's organisms; the embedded one where no model is named either."""
        if self.organisms:
            return organisms(self.organisms)
        return names(self.pair or "") or ((EMBEDDED,) if self.model is None else ())
