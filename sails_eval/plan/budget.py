"""The budget of a comparison: what is matched, what methods take of it, and how it is shared out between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import Match


@dataclass(frozen=True)
class Size:
    """One place in a grid of budgets: how many labelled examples and optimiser steps cells have; None: as the pair has
    it. Without either it is no place in a grid, and false."""

    examples: int | None = None
    steps: int | None = None

    @classmethod
    def of(cls, folder: str) -> Size:
        """The one whose folder a path ends with; AS_THE_PAIR where it ends with none."""
        found = re.fullmatch(r"(?:examples-(\d+))?(?:(?:^|-)steps-(\d+))?", folder.rpartition("/")[2])
        return cls(*(int(n) if n else None for n in found.groups())) if found else cls()

    def __bool__(self) -> bool:
        return bool(self.examples or self.steps)

    def __str__(self) -> str:
        told = [f"{n} {what}" for what, n in vars(self).items() if n]
        return ", ".join(told)

    @property
    def folder(self) -> str:
        """Its folder inside a run, such as examples-8-steps-10; empty where it is no place in a grid."""
        return "-".join(f"{what}-{n}" for what, n in vars(self).items() if n)

    def __lt__(self, other: Size) -> bool:
        """By examples, then by steps."""
        return (self.examples or 0, self.steps or 0) < (other.examples or 0, other.steps or 0)


AS_THE_PAIR = Size()


@dataclass(frozen=True)
class Cost:
    """What a method takes, in FLOPs or seconds: per training token, and before the first; `saes` is part of that."""

    per_token: float
    before: float = 0.0
    saes: float = 0.0

    def of(self, tokens: float) -> float:
        """What a cell of so many tokens takes, preparation included."""
        return self.before + self.per_token * tokens


@dataclass(frozen=True)
class Took:
    """The FLOPs of a method's cells, preparation (but no SAE) included, and their tokens; means."""

    flops: float
    tokens: float


@dataclass(frozen=True)
class Rank:
    """The rank that brings a method nearest to LoRA's trained parameters, and how many it trains then.

    `note` says why it keeps its own, where it does.
    """

    rank: int
    trained: int
    note: str = ""


@dataclass(frozen=True)
class Budget:
    """What all cells get the same amount of.

    Where that is not tokens, `costs` has what each method takes of it and `tokens` how many tokens its cells get for
    that. `examples` has how many labelled examples the cells of a method draw, where that is not as the pair has it.
    `notes` by method are for the board.
    """

    match: Match = "tokens"
    match_params: bool = False
    costs: Mapping[str, Cost] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


def share_out(costs: Mapping[str, Cost], tokens: int, unit: Match) -> dict[str, int]:
    """How many tokens each method's cells get for what the cheapest method takes for `tokens`.

    Raises UserError for a method whose preparation alone takes more than that.
    """
    cheapest = min(costs, key=lambda name: costs[name].of(tokens))
    budget = costs[cheapest].of(tokens)
    dear = [name for name, cost in costs.items() if cost.before >= budget and name != cheapest]
    if dear:
        name = max(dear, key=lambda name: costs[name].before)
        cost = costs[name]
        enough = max((cost.before - other.before) / other.per_token for other in costs.values())
        saes = f" ({cost.saes:.2g} of them to train its SAEs)" if cost.saes else ""
        others = f" (also too expensive: {', '.join(one for one in dear if one != name)})" if len(dear) > 1 else ""
        raise UserError(
            f"--match {unit}: the preparation of '{name}' alone takes {cost.before:.2g} {unit}{saes}, more than the "
            f"budget of {budget:.2g} that '{cheapest}' needs for {tokens:,} tokens{others}; leave this method out, or "
            f"give --tokens {_rounded_up(enough)} or more"
        )
    return {name: max(1, min(tokens, round((budget - cost.before) / cost.per_token))) for name, cost in costs.items()}


def _rounded_up(tokens: float) -> int:
    """To two digits."""
    unit = int(10 ** max(0, len(str(int(tokens))) - 2))
    return (int(tokens) // unit + 1) * unit


def ranked(pair: Pair, recipes: Sequence[Recipe], ranks: Mapping[str, Rank]) -> tuple[Recipe, ...]:
    """The recipes at these ranks; those without one as they are."""
    return tuple(
        recipe.model_copy(update={"rank_factor": ranks[recipe.name].rank / pair.rank})
        if recipe.name in ranks
        else recipe
        for recipe in recipes
    )
