"""What is written as JSON into a run folder."""

from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, model_validator

from sails_eval.boards.rate_choice import Choice
from sails_eval.core.checksums import KEEP
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.schema import Below, Frozen, Name, Record, validate
from sails_eval.plan.budget import Cost
from sails_eval.plan.identity import Identity
from sails_eval.training.cost import TrainingCost


class Description(Record):
    """run.json: what a run is, for whoever publishes, resumes or extends it."""

    fix = KEEP

    run: str = Field(description="hash of the identity, which names the run on boards")
    pair: str = Field(description="its name; of several, with commas")
    environment: str = Field(description="hash of library versions and engine")
    test_set: str = Field(description="hash of the tasks")
    budget: str = Field(description="in words")
    date: str = Field(description="YYYY-MM-DD, on which it began")
    version: str = Field(description="of this package")
    commit: str | None = Field(default=None, description="of this package's checkout, -dirty where files differed")
    identity: Identity = Field(description="hashes of all that determines results")
    config: dict[str, Any] | None = Field(default=None, description="as --config takes it")

    def asked(self, where: Path) -> CompareConfig:
        """What was asked for. Raises UserError where the run does not say."""
        if self.config is None:
            raise UserError(f"{where}: written by an older sails-eval, without the configuration; make the run again")
        config = self.config
        if self._contrasted_all and "contrast_examples" not in config:
            config = {**config, "contrast_examples": "all"}
        if self.version.startswith(("0.1.", "0.2.")):
            config = {**self._answered_as, **config}
        return validate(CompareConfig, config, where=str(where))

    @property
    def quick(self) -> bool:
        """Whether it is a smoke test, which says nothing of which method is better."""
        return bool(self.config and self.config.get("quick"))

    @property
    def methods(self) -> tuple[str, ...]:
        """Those that were asked for, in that order, as rows call them."""
        return tuple(Path(name).stem for name in (self.config or {}).get("methods", ()))

    @property
    def _answered_as(self) -> dict[str, Any]:
        """How answers were generated before 0.3.0, where nobody says: in batches of a size, and to their end."""
        sizes = {
            one.model.get("eval_batch_size") for one in (self.identity, *self.identity.parts.values()) if one.model
        }
        return {"end_loops": False, **({"eval_batch_size": sizes.pop()} if len(sizes) == 1 else {})}

    @property
    def _contrasted_all(self) -> bool:
        """Whether its initialisations looked at all contrast data, as always before 0.3.0."""
        seen = [one.training.keys() for one in (self.identity, *self.identity.parts.values())]
        return any(keys & {"contrast", "requests"} and "contrast_examples" not in keys for keys in seen)


class TrainRecord(Record, TrainingCost):
    """train.json: what a cell was trained on, and what that cost."""

    labelled_examples: int = Field(description="different ones, those that the initialisation looked at included")
    further_examples: int = Field(description="of these, those that the training sample does not hold")
    rejected_answers: int = Field(description="that training or initialisation saw")
    contrast_examples: int = Field(default=0, description="that the initialisation looked at; not told before 0.3.0")


class StepRecord(Record):
    """train.json in the folder of one of a cell's several checkpoints."""

    steps: int = Field(description="after which it was saved")


class PreparationCost(Frozen):
    """What an initialisation's look at its data cost, for a seed or for all of them."""

    tokens: int = Field(default=0, description="of the texts that it looked at")
    flops: int = Field(default=0, description="as torch counts them")
    seconds: float = Field(default=0.0, description="with FLOPs being counted, which takes time of its own")
    sae_flops: int = Field(default=0, description="of training SAEs that were made for it")


class SubspaceReport(Record):
    """subspace/METHOD.json: what an initialisation starts from, how it was found and at what cost."""

    cost: PreparationCost = Field(default=PreparationCost(), description="of finding it")
    saes: list[str] = Field(
        default_factory=list, description="the names of those it reads, as SET/NAME of a further set"
    )
    saw: list[str] = Field(default_factory=list, description="what else it looked at, in words")
    warnings: list[str] = Field(default_factory=list, description="what to know of it, each a clause for the board")
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
    """choices.json: the learning rate of every row, chosen on validation."""

    choices: dict[Name, Choice] = Field(description="by row; a rate of null where nothing was to be chosen")


class Tuned(Record):
    """tuning.json: what the seeds that only tune came to, written before the test is answered."""

    fix = KEEP
    scores: dict[str, dict[float, float]] = Field(
        description="by method and place on its grid (0 is the lowest rate): alignment score on validation"
    )
    best: str = Field(description="the method that scores best at its best rate")


class Failed(Record):
    """failed.json: the trained rows that have no score. They are tried again when the run is resumed."""

    rows: dict[str, str] = Field(description="why, by row")


class Stopped(Record):
    """stopped.json: which of a cell's several checkpoints is kept."""

    step: int = Field(description="that is kept")
    alignment_score: dict[int, float | None] = Field(description="on validation, after each step")


class Seal(Record):
    """cells.json, written last: the hash of every model's folder, and of what initialisations start from."""

    whole_in_0_1_0 = "hashes"
    hashes: dict[Below, str] = Field(description="by path in the run folder")


class Finished(Record):
    """finished.json, written after all else: the hash of every file that the run's end wrote, but for its models'."""

    asked: str = Field(description="hash of all that the files follow from")
    files: dict[Below, str] = Field(description="by path in the run folder")


class Reused(Record):
    """reused.json: which cells of a run come from an earlier one, and from which."""

    fix = KEEP
    run: str = Field(description="the earlier one, as its run.json has it")
    cells: list[Below] = Field(description="paths in the run folder")


class Timed(Frozen):
    """A recipe, by all that its speed depends on besides the machine, and its cost in seconds."""

    recipe: str = Field(description="hash")
    cost: Cost = Field(
        validation_alias=AliasChoices("cost", "price"), description="per token and before; called price in 0.1.0"
    )


class Pace(Record):
    """pace.json: what was measured before a run that matches seconds, so that it has the same cells again."""

    fix = KEEP
    whole_in_0_1_0 = "recipes"
    recipes: dict[str, Timed] = Field(description="by name")
