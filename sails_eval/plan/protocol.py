"""The protocol `confirm`: all that is decided before anything is tested, as protocol.yaml keeps it.

Rates are tuned on seeds of their own. The test is answered by fresh ones, and no two organisms share a seed, so that
what a method learns on one says nothing of what it learns on another: the organism is the unit of replication.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import AliasChoices, Field

from sails_eval.boards.contrasts import (
    ALPHA,
    BEST,
    HEADLINE,
    POWER,
    PRIMARY,
    REST,
    Contrast,
    Design,
    as_hashed,
    protocol_hash,
)
from sails_eval.boards.table import EQUIVALENCE_MARGIN
from sails_eval.core.checksums import KEEP
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest
from sails_eval.core.recipe import Recipe, defaults
from sails_eval.core.schema import Record
from sails_eval.core.stats import MIN_ORGANISMS

SPACED = 1000
"""From one organism's seeds to the next one's."""

TUNING = 500
"""From an organism's seeds for the test to those for tuning; so there are at most as many of either."""


FIRST, BETWEEN = 10_000_000, 100_000
"""The lowest seed of a confirmation, and how far those of different ones are apart."""

DECLARED = {"comparisons", "tasks", "judge", "limit", "examples", "steps", "tokens", "match", "seeds", "tuning_seeds",
            "learning_rates"}  # fmt: skip
"""What else the seeds are drawn by, besides recipes, pairs, and what is set instead of what pairs have."""


class Protocol(Record):
    """protocol.yaml: what is tested, how, and when it ends; written before anything is."""

    fix = KEEP
    organisms: tuple[str, ...] = Field(description="the pairs, by name")
    methods: tuple[str, ...] = Field(description="the rows that are trained")
    tasks: tuple[str, ...] = Field(description="by name")
    limit: int | None = Field(description="of each task only so many documents; None: all")
    judge: str = Field(description="whose verdicts count")
    budgets: tuple[str, ...] = Field(description="labelled examples and length of a cell's training")
    trials: int = Field(description="learning rates that every method is tuned over")
    recipes: dict[str, str] = Field(default_factory=dict, description="hash of each method's recipe")
    grids: dict[str, tuple[float, ...]] = Field(
        default_factory=dict, description="each method's learning rates at first, on the first pair"
    )
    comparisons: tuple[str, ...] = Field(
        validation_alias=AliasChoices("comparisons", "contrasts"),
        description="A:B@METRIC; best is the row that scores best in tuning; earlier called contrasts",
    )
    left_out: tuple[str, ...] = Field(description="declared comparisons of rows that are not compared here")
    secondary: tuple[str, ...] = Field(description="further metrics of the comparisons, each a family of its own")
    alpha: float = Field(default=ALPHA, description="family-wise error of the comparisons, by Holm; of their intervals")
    power: float = Field(default=POWER, description="with which a difference is called detectable")
    margin: float = Field(default=EQUIVALENCE_MARGIN, description="within which rows are equivalent")
    unit: str = Field(description="of replication, in words")
    tuning_seeds: dict[str, tuple[int, ...]] = Field(description="by organism; they answer validation alone")
    tuning: str = Field(description="how rates are chosen, in words")
    test_seeds: dict[str, tuple[int, ...]] = Field(description="by organism; they answer the test alone")
    stop: str = Field(description="when the run ends")

    @property
    def fingerprint(self) -> str:
        told = self.model_dump(mode="json", by_alias=True)
        return protocol_hash({key: value for key, value in told.items() if value != {}})  # what earlier ones do not say

    @property
    def declared(self) -> tuple[Contrast, ...]:
        return tuple(parse_contrast(text, PRIMARY) for text in self.comparisons)

    def design(self, best: str) -> Design:
        """What the board tests, once it is known which row scored best in tuning."""
        return Design(tuple(one.about(best, self.methods) for one in self.declared), self.secondary)

    def check_same(self, kept: Protocol, where: object) -> None:
        """Raises UserError where the protocol that a run began with is another one."""
        mine, theirs = self.model_dump(), kept.model_dump()
        differing = [key for key in mine if mine[key] != theirs[key]]
        if differing:
            differing = [key for key in differing if not key.endswith("_seeds")] or differing  # drawn by the others
            raise UserError(
                f"{where}: this protocol was fixed before the test, and the settings given now differ in "
                f"{', '.join(differing)}; use the settings of the file, or give another --out"
            )


def recipe_hashes(recipes: Sequence[Recipe]) -> dict[str, str]:
    """A hash of all that each recipe says, by name."""
    return {recipe.name: digest(recipe.model_dump(mode="json")) for recipe in recipes}


def first_seed(config: CompareConfig, recipes: Sequence[Recipe]) -> int:
    """Where the seeds begin of what is declared: nobody knows what they answer while that is declared.

    Other recipes, comparisons or sizes have other seeds, so whoever changes a method's rates after a confirmation has
    it tested anew. Explorations have their seeds from 0.
    """
    told = [
        recipe_hashes(recipes),
        [Path(name).stem for name in config.pairs],
        as_hashed(config.model_dump(mode="json", include=DECLARED)),
        *([config.telling] if config.telling else []),
    ]
    return FIRST + int(digest(told)[:8], 16) % 9_000 * BETWEEN


def seeds_to_test(first: int, organism: int, n: int) -> tuple[int, ...]:
    """The seeds of an organism, by its place, that answer the test."""
    return tuple(first + SPACED * organism + i for i in range(n))


def seeds_to_tune(first: int, organism: int, n: int) -> tuple[int, ...]:
    """Those that rates are tuned on."""
    return tuple(first + SPACED * organism + TUNING + i for i in range(n))


def parse_contrast(text: str, endpoint: str) -> Contrast:
    """A:B in the `endpoint`, or A:B@METRIC. Raises UserError for any other form."""
    found = re.fullmatch(r"([^:@]+):([^:@]+)(?:@([^:@]+))?", text)
    if found is None:
        raise UserError(
            f"--comparisons: '{text}' does not have the form A:B or A:B@METRIC, with A and B rows of the board"
        )
    a, b, metric = found.groups()
    return Contrast(a, b, metric or (HEADLINE if (a, b) == (BEST, REST) else endpoint))


def by_default(trained: Sequence[str], rows: Sequence[str]) -> tuple[list[Contrast], list[Contrast]]:
    """The comparisons that are declared where nobody says otherwise: those of rows that are there, and the others."""
    kept, left_out = list[Contrast](), list[Contrast]()
    for one in (parse_contrast(text, PRIMARY) for text in defaults().confirm):
        there = len(trained) > 1 if one.of_best else {one.a, one.b} <= {*rows}
        (kept if there else left_out).append(one)
    return kept, left_out


def in_words(organisms: int, seeds: int) -> tuple[str, str, str]:
    """What the protocol says of its unit, its tuning and its end."""
    if organisms >= MIN_ORGANISMS:
        unit = f"organism: Student's t over the means of {organisms} organisms"
    elif organisms == 1:
        unit = "seed: one model, and the intervals are for other trainings of it"
    else:
        unit = f"seed: fewer than {MIN_ORGANISMS} models, and the intervals are for other trainings of these"
    tuning = (
        "the recipe's grid, then best × step^(±1/2); the mean alignment score on validation over organisms and tuning "
        "seeds decides; one place on the grid for all organisms, ties to the lower"
    )
    stop = f"fixed: {organisms} organism{'s' * (organisms > 1)} × {seeds} seeds; nothing is tested before all are tuned"
    return unit, tuning, stop
