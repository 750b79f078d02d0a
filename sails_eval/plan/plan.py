"""All that will be done, as typed values: a plan, its sub-runs, their cells, and the rows that nothing is trained for.

`plan.prepare` makes them; nothing here reads a file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.fingerprint import digest
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.models.engines import CHAT, HF
from sails_eval.plan.budget import Budget
from sails_eval.plan.identity import Identity
from sails_eval.tasks.library import TaskInfo


@dataclass(frozen=True)
class Cell:
    """One training run: recipe × learning rate × seed; the fingerprint covers all that determines it.

    `tokens` is its budget where that is not the pair's, `checkpoints` at how many steps it is judged on validation.
    """

    recipe: Recipe
    learning_rate: float
    seed: int
    fingerprint: str
    tokens: int | None = None
    checkpoints: int = 1

    @property
    def name(self) -> str:
        """What tells it from the recipe's other cells."""
        return f"rate-{self.learning_rate:g}-seed-{self.seed}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class ReferenceModel:
    """A row that nothing is trained for: a finished model, or the base model under a system prompt.

    `model` is what the board calls it. `pair` is the comparison's, with the row's own model in place of the base model
    where it has one; `checkpoint` is an adapter on it. `identity` holds all that its answers depend on besides tasks.
    """

    name: str
    model: str
    pair: Pair
    engine: str
    identity: dict[str, Any]
    checkpoint: Path | None = None
    system_prompt: str = ""

    @property
    def chats(self) -> bool:
        """Whether it is behind a chat API, which gives texts and no log-likelihoods."""
        return self.engine == CHAT

    def tasks(self, tasks: Sequence[TaskInfo]) -> tuple[TaskInfo, ...]:
        """Those of the tasks that it can answer."""
        return tuple(task for task in tasks if not (self.chats and task.kind == "capability"))


@dataclass(frozen=True)
class PlannedJudge:
    """A judge as it is asked for, as boards call it, and the hash of all that its verdicts hang on."""

    spec: str = ""
    name: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class EvaluationPlan:
    """What having models answer and be judged takes: a pair with the flags folded in, tasks, a judge, an engine.

    `identity` has hashes of all that determines results. `references` are the rows, besides the base model, that
    nothing is trained for. `contrasts` are the differences that are tested, as pairs of rows; None where none were
    declared. `calibration` says how far the judge agrees with people, as far as that is known.
    """

    pair: Pair
    tasks: tuple[TaskInfo, ...] = ()
    identity: Identity = field(default_factory=Identity)
    engine: str = HF
    judge: PlannedJudge = PlannedJudge()
    reference_judge: PlannedJudge | None = None
    limit: int | None = None
    calibration: str = ""
    allow_overlap: bool = False
    config: CompareConfig = field(default_factory=CompareConfig)
    references: tuple[ReferenceModel, ...] = ()
    contrasts: tuple[tuple[str, str], ...] | None = None

    @property
    def fingerprint(self) -> str:
        return self.identity.fingerprint

    @property
    def validation_tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(task for task in self.tasks if task.has_validation)

    @property
    def named_tasks(self) -> dict[str, TaskInfo]:
        """The tasks by name."""
        return {task.name: task for task in self.tasks}


@dataclass(frozen=True)
class SubRun(EvaluationPlan):
    """One pair at one number of examples: a comparison with everything it needs in a folder of its own.

    `folder` is its place inside the run, '' where it is the whole run. `examples` is its number of labelled examples
    where there are several, else None. `recipes` are those that train.
    """

    folder: str = ""
    examples: int | None = None
    recipes: tuple[Recipe, ...] = ()
    seeds: int = 0
    learning_rates: int = 0
    checkpoints: int = 1
    budget: Budget = field(default_factory=Budget)

    @property
    def trials(self) -> int:
        """How many models of each seed a method may choose from."""
        return self.learning_rates * self.checkpoints

    @property
    def initialised(self) -> tuple[Recipe, ...]:
        """The recipes with an initialisation of their own, for which something is prepared once."""
        return tuple(recipe for recipe in self.recipes if recipe.init)

    def tokens_of(self, recipe: Recipe) -> int:
        """The tokens that a recipe's cells are trained on, up to the end of the last step."""
        return self.budget.tokens.get(recipe.name, self.pair.tokens)

    def rates(self, recipe: Recipe) -> list[float]:
        """The recipe's learning rates for this pair: log-spaced over its span, to three significant digits."""
        if known := self.identity.learning_rates.get(recipe.name):
            return known
        scale, n = self.pair.rate_scale(recipe.objective), self.learning_rates
        low, high = scale * recipe.span.low, scale * recipe.span.high
        if n == 1:
            return [float(f"{(low * high) ** 0.5:.3g}")]
        return [float(f"{low * (high / low) ** (i / (n - 1)):.3g}") for i in range(n)]

    def cells(self, recipe: Recipe) -> list[Cell]:
        """Every learning rate with every seed."""
        same = self.identity.recipes[recipe.name]
        several = [self.checkpoints] if self.checkpoints > 1 else []
        tokens = self.budget.tokens.get(recipe.name)
        return [
            Cell(recipe, rate, seed, digest([same, rate, seed, *several]), tokens, self.checkpoints)
            for rate in self.rates(recipe)
            for seed in range(self.seeds)
        ]

    def all_cells(self) -> list[Cell]:
        """Every cell of every method."""
        return [cell for recipe in self.recipes for cell in self.cells(recipe)]


@dataclass(frozen=True)
class Plan:
    """A comparison, complete before its first step: every pair, and of it every number of examples, ascending."""

    config: CompareConfig
    sub_runs: tuple[SubRun, ...]

    @property
    def identity(self) -> Identity:
        """What the run is determined by: what its one sub-run is, or what all of them are, by folder."""
        if len(self.sub_runs) == 1:
            return self.sub_runs[0].identity
        return Identity(parts={one.folder: one.identity for one in self.sub_runs})

    @property
    def pairs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.pair.name for one in self.sub_runs))

    @property
    def most_examples(self) -> int | None:
        """The largest number of examples, whose leaderboard is the run's; None where there are not several."""
        return max((one.examples for one in self.sub_runs if one.examples), default=None)

    @property
    def folder(self) -> Path:
        """Where the run goes: where the user says, or a folder named after what it is."""
        return self.config.out or Path("runs") / f"{'-'.join(self.pairs)}-{self.identity.fingerprint[:8]}"
