"""What is written as JSON into a run folder: the same fields on disk as in memory."""

from pathlib import Path
from typing import Any, Self

from pydantic import AliasChoices, ConfigDict, Field, model_validator

from sails_eval.boards.rate_choice import Choice
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json, write_text
from sails_eval.core.schema import Frozen, validate
from sails_eval.plan.budget import Cost
from sails_eval.plan.identity import Identity
from sails_eval.training.cost import TrainingCost

SCHEMA = 1
"""Raised when a field of a record changes its meaning; files of 0.1.0 have none."""


class Record(Frozen):
    """A JSON file of a run folder. An unknown field is an error: it would be of a later version."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="strings")

    schema_number: int = Field(default=SCHEMA, alias="schema", le=SCHEMA, description="of this file's fields")

    def write(self, path: Path) -> None:
        """Write it, by rename."""
        write_text(path, self.model_dump_json(by_alias=True, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UserError, with the file's name, where it is not there or holds something else."""
        return validate(cls, read_json(path, missing="no such file"), where=str(path))


class Description(Record):
    """run.json: what a run is, for whoever publishes, resumes or extends it."""

    run: str = Field(description="hash of the identity, which names the run on boards")
    pair: str
    environment: str = Field(description="hash of library versions and engine")
    test_set: str = Field(description="hash of the tasks")
    budget: str = Field(description="in words")
    date: str = Field(description="YYYY-MM-DD, on which it began")
    version: str = Field(description="of this package")
    commit: str | None = Field(default=None, description="of this package's checkout, -dirty where files differed")
    identity: Identity
    config: dict[str, Any] | None = Field(default=None, description="as --config takes it")

    def asked(self, where: Path) -> CompareConfig:
        """What was asked for. Raises UserError where the run does not say."""
        if self.config is None:
            raise UserError(f"{where}: of an older sails-eval, without the configuration; make the run anew")
        return validate(CompareConfig, self.config, where=str(where))


class TrainRecord(Record, TrainingCost):
    """train.json: what a cell was trained on, and what that cost."""

    labelled_examples: int = Field(description="different ones, those that the initialisation looked at included")
    further_examples: int = Field(description="of these, those that the training sample does not hold")
    rejected_answers: int = Field(description="that training or initialisation saw")


class StepRecord(Record):
    """train.json in the folder of one of a cell's several checkpoints."""

    steps: int


class PreparationCost(Frozen):
    """What an initialisation's look at its data cost, once per run."""

    tokens: int = 0
    flops: int = 0
    seconds: float = Field(default=0.0, description="with FLOPs being counted, which takes time of its own")
    sae_flops: int = Field(default=0, description="of training SAEs that were made for it")


class SubspaceReport(Record):
    """subspace/METHOD.json: what an initialisation starts from, how it was found and at what cost."""

    cost: PreparationCost = PreparationCost()
    saes: list[str] = Field(default_factory=list)
    saw: list[str] = Field(default_factory=list, description="what else it looked at, in words")
    found: dict[str, Any] = Field(default_factory=dict, description="the initialisation's own report, mostly by layer")

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, values: dict[str, Any]) -> dict[str, Any]:
        """There the own report stood beside the rest."""
        if "schema" in values:
            return values
        own = {key: value for key, value in values.items() if key not in cls.model_fields}
        return {**{key: values[key] for key in values.keys() - own.keys()}, **({"found": own} if own else {})}


class Choices(Record):
    """choices.json: the learning rate of every row, chosen on validation; null where nothing was to be chosen."""

    choices: dict[str, Choice]


class Stopped(Record):
    """stopped.json: which of a cell's several checkpoints is kept."""

    step: int
    alignment_score: dict[int, float | None] = Field(description="on validation, after each step")


class Seal(Record):
    """cells.json, written last: the hash of every model's folder, and of what initialisations start from."""

    hashes: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values if "hashes" in values else {"hashes": values}


class Reused(Record):
    """reused.json: which cells of a run come from an earlier one, and from which."""

    run: str
    cells: list[str]


class Timed(Frozen):
    """A recipe, by all that its pace hangs on besides the machine, and its cost in seconds."""

    recipe: str
    cost: Cost = Field(validation_alias=AliasChoices("cost", "price"), description="called price in 0.1.0")


class Pace(Record):
    """pace.json: what was measured before a run that matches seconds, so that it has the same cells again."""

    recipes: dict[str, Timed]

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, values: dict[str, Any]) -> dict[str, Any]:
        return values if "recipes" in values else {"recipes": values}
