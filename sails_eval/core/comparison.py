"""What the user asked for: everything that `sails-eval compare` can be told, checked and frozen."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sails_eval.core.data_source import Data
from sails_eval.core.names import names
from sails_eval.core.pair import EMBEDDED, joined
from sails_eval.core.recipe import defaults
from sails_eval.core.schema import Frozen
from sails_eval.core.training_settings import Match, Regularise, parse_regularise


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

    methods: tuple[str, ...] = Field(default_factory=lambda: defaults().methods)
    pair: Annotated[str | None, BeforeValidator(joined)] = Field(
        default=None, description="one, or several between commas"
    )
    model: str | None = None
    sae: tuple[Path, ...] = ()
    chat_template: Path | None = None
    train: Data | None = None
    contrast: Data | None = None
    tasks: tuple[str, ...] | None = None
    judge: Annotated[str | None, BeforeValidator(joined)] = Field(
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
        return names(self.pair or "") or ((EMBEDDED,) if self.model is None else ())
