"""The typed values of a plan: cells, rows that nothing is trained for, and the setup that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sails_eval.core.fingerprint import digest
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import Match
from sails_eval.models.engines import CHAT, HF
from sails_eval.plan.price import Price
from sails_eval.tasks.library import TaskInfo

QUICK = {"seeds": 2, "learning_rates": 2}


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
    def folder(self) -> str:
        return f"cells/{self.recipe.name}/rate-{self.learning_rate:g}-seed-{self.seed}-{self.fingerprint[:8]}"


@dataclass(frozen=True)
class Setup:
    """A comparison, checked: `pair` has the flags folded in, `identity` holds a hash of all that determines results.

    `recipes` are those that train; `finished` the rows, besides the base model, that nothing is trained for.

    `contrasts` are the differences that are tested, as pairs of rows; None where none were declared. `calibration` says
    how far the judge agrees with people, as far as that is known.

    `match` is what all cells get the same amount of; where that is not tokens, `prices` and `tokens` have what each
    method takes of it, and how many tokens its cells get for that (`matching.py`). `notes` by method are for the board.
    """

    pair: Pair
    tasks: tuple[TaskInfo, ...]
    identity: dict[str, Any]
    recipes: tuple[Recipe, ...] = ()
    engine: str = HF
    limit: int | None = None
    seeds: int = 0
    learning_rates: int = 0
    checkpoints: int = 1
    contrasts: tuple[tuple[str, str], ...] | None = None
    calibration: str = ""
    allow_overlap: bool = False
    finished: tuple[Finished, ...] = ()
    match: Match = "tokens"
    match_params: bool = False
    prices: Mapping[str, Price] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        return digest(self.identity)

    @property
    def judge(self) -> str:
        assert self.pair.judge is not None  # resolve() saw to it
        return self.pair.judge

    @property
    def trials(self) -> int:
        """How many models of each seed a method may choose from."""
        return self.learning_rates * self.checkpoints

    @property
    def validation_tasks(self) -> tuple[TaskInfo, ...]:
        return tuple(task for task in self.tasks if task.has_validation)

    def tokens_of(self, recipe: Recipe) -> int:
        """The tokens that a recipe's cells are trained on, up to the end of the last step."""
        return self.tokens.get(recipe.name, self.pair.tokens)

    def rates(self, recipe: Recipe) -> list[float]:
        """The recipe's learning rates for this pair: log-spaced over its span, to three significant digits."""
        scale, n = self.pair.rate_scale(recipe.objective), self.learning_rates
        low, high = scale * recipe.span.low, scale * recipe.span.high
        if n == 1:
            return [float(f"{(low * high) ** 0.5:.3g}")]
        return [float(f"{low * (high / low) ** (i / (n - 1)):.3g}") for i in range(n)]

    def cells(self, recipe: Recipe) -> list[Cell]:
        """Every learning rate with every seed."""
        same = self.identity["recipes"][recipe.name]
        several = [self.checkpoints] if self.checkpoints > 1 else []
        tokens = self.tokens.get(recipe.name)
        return [
            Cell(recipe, rate, seed, digest([same, rate, seed, *several]), tokens, self.checkpoints)
            for rate in self.rates(recipe)
            for seed in range(self.seeds)
        ]

    def all_cells(self) -> list[Cell]:
        """Every cell of every method."""
        return [cell for recipe in self.recipes for cell in self.cells(recipe)]


@dataclass(frozen=True)
class Finished:
    """A row as it stands.

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
