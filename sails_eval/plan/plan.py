"""All that will be done, as typed values: a plan, its sub-runs, their cells, and the rows that nothing is trained for.

`plan.prepare` makes them; nothing here reads a file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sails_eval.boards.contrasts import Contrast
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.fingerprint import digest
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import MEMORY
from sails_eval.methods.subspace.prepare import start_seed
from sails_eval.models.engines import CHAT, HF
from sails_eval.plan.budget import AS_THE_PAIR, Budget, Size
from sails_eval.plan.identity import Identity
from sails_eval.plan.protocol import Protocol
from sails_eval.tasks.library import TaskInfo

REFINED = 2
"""Rates that are tuned beside the best one of the grid."""


@dataclass(frozen=True)
class Cell:
    """One training run: recipe × learning rate × seed; the fingerprint covers all that determines it.

    `tokens` and `examples` are its budget and the size of its sample where these are not the pair's, `checkpoints` at
    how many steps it is judged on validation. `start_seed` is its seed where its initialisation looks at what that
    seed draws, and None where all seeds start from the same.
    """

    recipe: Recipe
    learning_rate: float
    seed: int
    fingerprint: str = ""
    tokens: int | None = None
    examples: int | None = None
    checkpoints: int = 1
    start_seed: int | None = None

    @property
    def name(self) -> str:
        """What tells it from the recipe's other cells."""
        return f"rate-{self.learning_rate:g}-seed-{self.seed}-{self.fingerprint[:8]}"

    def budget(self, pair: Pair) -> Pair:
        """The pair with what the cell has of tokens and examples."""
        own = {"tokens": self.tokens, "examples": self.examples}
        return pair.model_copy(update={key: value for key, value in own.items() if value is not None})


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
    nothing is trained for. `contrasts` are the differences that are tested; None where none were declared. `protocol`
    is that of a confirmation. `calibration` says how far the judge agrees with people, as far as that is known.
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
    contrasts: tuple[Contrast, ...] | None = None
    protocol: Protocol | None = None

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
class Tuning:
    """Seeds on which rates are tuned and nothing else, and what came of it so far.

    `scores` has, by method, the mean alignment score on validation at each place of its grid of rates that was tried:
    0 is the lowest rate, 0.5 lies between it and the next.
    """

    seeds: tuple[int, ...]
    scores: Mapping[str, Mapping[float, float]] = field(default_factory=dict)

    def best_place(self, method: str, *, of_grid: bool = False) -> float:
        """Where the method scores best, or best on its grid; ties go to the lower rate."""
        scores = self.scores[method]
        tried = [place for place in scores if not math.isnan(scores[place]) and not (of_grid and place % 1)]
        return min(tried, key=lambda place: (-scores[place], place))

    @property
    def best(self) -> str:
        """The method that scores best at its best rate; of equal ones the first."""
        return max(self.scores, key=lambda method: self.scores[method][self.best_place(method)])


@dataclass(frozen=True)
class SubRun(EvaluationPlan):
    """One pair at one budget: a comparison with everything it needs in a folder of its own.

    `folder` is its place inside the run, '' where it is the whole run. `size` is its place in a grid of budgets, where
    there is one. `recipes` are those that train. `seeds` are tested; where there is no `tuning`
    with seeds of its own, they choose the rates, too. `failed` has the fingerprints of cells that could not be trained
    or answered, and are cells no more.
    """

    folder: str = ""
    size: Size = AS_THE_PAIR
    recipes: tuple[Recipe, ...] = ()
    seeds: tuple[int, ...] = ()
    tuning: Tuning | None = None
    learning_rates: int = 0
    checkpoints: int = 1
    budget: Budget = field(default_factory=Budget)
    failed: frozenset[str] = frozenset()

    def run_as(self, pair: Pair) -> "SubRun":
        """The same in the micro-batches of `pair`, which change nothing but time and memory: its identity stays."""
        changes = {key: getattr(pair, key) for key in MEMORY}
        rows = tuple(replace(row, pair=row.pair.model_copy(update=changes)) for row in self.references)
        return replace(self, pair=self.pair.model_copy(update=changes), references=rows)

    @property
    def as_identified(self) -> Pair:
        """The pair with the micro-batches that its identity has, which are the same on every machine."""
        return self.pair.model_copy(update={key: self.identity.training[key] for key in MEMORY})

    @property
    def trials(self) -> int:
        """How many models of each seed a method may choose from."""
        refined = REFINED if self.tuning and self.learning_rates > 1 else 0
        return (self.learning_rates + refined) * self.checkpoints

    @property
    def validated_seeds(self) -> tuple[int, ...]:
        """Those that answer validation, on which rates are chosen."""
        return self.tuning.seeds if self.tuning else self.seeds

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((*self.validated_seeds, *self.seeds)))

    def starts(self, recipe: Recipe) -> tuple[int | None, ...]:
        """The seeds for which something is prepared before a recipe's cells: none without an initialisation, and None
        alone where that looks at the same for all seeds."""
        seeds = (start_seed(self.pair, recipe, seed) for seed in self.all_seeds)
        return tuple(dict.fromkeys(seeds)) if recipe.init else ()

    def tokens_of(self, recipe: Recipe) -> int:
        """The tokens that a recipe's cells are trained on, up to the end of the last step."""
        return self.budget.tokens.get(recipe.name, self.pair.tokens)

    def training_of(self, recipe: Recipe) -> dict[str, Any]:
        """What a recipe's cells depend on, with what they have of tokens and examples."""
        examples = self.budget.examples.get(recipe.name, self.pair.examples)
        return {**self.identity.training, "tokens": self.tokens_of(recipe), "examples": examples}

    def rates(self, recipe: Recipe) -> list[float]:
        """The learning rates that the recipe is tried at: those of its grid and, once that is tuned, two beside its
        best one, half a step of the grid to either side."""
        return list(self.rates_by_place(recipe).values())

    def rates_by_place(self, recipe: Recipe) -> dict[float, float]:
        """The same by their place on the grid, as `Tuning.scores` has it; pairs may scale rates differently."""
        grid = self.grid(recipe)
        found = {float(place): rate for place, rate in enumerate(grid)}
        if self.tuning and recipe.name in self.tuning.scores and len(grid) > 1:
            best = self.tuning.best_place(recipe.name, of_grid=True)
            step = (grid[-1] / grid[0]) ** (1 / (len(grid) - 1))
            found |= {best + half: float(f"{grid[int(best)] * step**half:.3g}") for half in (-0.5, 0.5)}
        return found

    def tuned(self, recipe: Recipe) -> Choice | None:
        """The choice of the recipe's rate, where that is tuned, and done."""
        rates = self.rates_by_place(recipe)
        scores = self.tuning.scores.get(recipe.name, {}) if self.tuning else {}
        if self.tuning is None or scores.keys() != rates.keys():
            return None
        chosen = rates[self.tuning.best_place(recipe.name)]
        return Choice(recipe.name, chosen, tuple(sorted((rates[place], score) for place, score in scores.items())))

    def grid(self, recipe: Recipe) -> list[float]:
        """The recipe's learning rates for this pair: the one that was asked for, or log-spaced over the recipe's span,
        to three significant digits.

        One or two rates lie in the middles of as many equal parts of the span, more of them from end to end.
        """
        if known := self.identity.learning_rates.get(recipe.name):
            return known
        if fixed := self.config.fixed_rate(recipe.name):
            return [fixed]
        scale, n = self.pair.rate_scale(recipe.objective), self.learning_rates
        low, high = scale * recipe.span.low, scale * recipe.span.high
        places = [(i + 0.5) / n if n < 3 else i / (n - 1) for i in range(n)]
        return [float(f"{low * (high / low) ** place:.3g}") for place in places]

    def cells(self, recipe: Recipe) -> list[Cell]:
        """Every learning rate with every seed that chooses it; where others are tested, these at the chosen rate."""
        wanted = [(rate, seed) for rate in self.rates(recipe) for seed in self.validated_seeds]
        if choice := self.tuned(recipe):
            assert choice.learning_rate is not None
            wanted += [(choice.learning_rate, seed) for seed in self.seeds]
        found = [self.cell(recipe, rate, seed) for rate, seed in wanted]
        return [cell for cell in found if cell.fingerprint not in self.failed]

    def cell(self, recipe: Recipe, rate: float, seed: int) -> Cell:
        several = [self.checkpoints] if self.checkpoints > 1 else []
        return Cell(
            recipe,
            rate,
            seed,
            digest([self.identity.recipes.get(recipe.name, ""), rate, seed, *several]),
            tokens=self.budget.tokens.get(recipe.name),
            examples=self.budget.examples.get(recipe.name),
            checkpoints=self.checkpoints,
            start_seed=start_seed(self.pair, recipe, seed),
        )

    def all_cells(self) -> list[Cell]:
        """Every cell of every method."""
        return [cell for recipe in self.recipes for cell in self.cells(recipe)]


@dataclass(frozen=True)
class Plan:
    """A comparison, complete before its first step: every pair, and of it every budget, ascending."""

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
    def protocol(self) -> Protocol | None:
        """That of a confirmation: the same for all of it."""
        return self.sub_runs[0].protocol

    @property
    def largest(self) -> Size:
        """The largest budget, whose leaderboard is the run's."""
        return max(one.size for one in self.sub_runs)

    @property
    def folder(self) -> Path:
        """Where the run goes: where the user says, or a folder named after what it is."""
        return self.config.out or Path("runs") / f"{'-'.join(self.pairs)}-{self.identity.fingerprint[:8]}"
