"""Budgets other than tokens: how many tokens each method gets where FLOPs, seconds or trained parameters are matched.

The budget is what the cheapest method takes for all of `--tokens`: its preparation and its training. Whoever costs more
trains on fewer tokens, nobody on more. What a method costs is found in a worker (`prices.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json, write_json
from sails_eval.plan.checks import check_training
from sails_eval.plan.identity import recipe_identity
from sails_eval.plan.parts import Part, placed
from sails_eval.plan.price import Price, Rank, Took, ranked, share_out
from sails_eval.plan.setup import Setup

if TYPE_CHECKING:
    from sails_eval.core.pair import Pair
    from sails_eval.core.recipe import Recipe
    from sails_eval.run.workers import Workers

PACE = "pace.json"
"""What was measured before a run that matches seconds; a run that is gone on with reads it."""

MISJUDGED = 0.05
"""The share by which the FLOPs that a method took may miss their forecast before the board says so."""


def matched(parts: Sequence[Part], run: Path, pool: Workers, *, old: Path | None = None) -> tuple[Part, ...]:
    """The parts with each method's rank and number of tokens, where something else than tokens is matched.

    `old` is the run that this one extends: the pace measured there holds here. Raises UserError as `share_out` does.
    """
    return tuple(
        replace(part, setup=_matched(part.setup, placed(run, part), pool, old and placed(old, part))) for part in parts
    )


def _matched(setup: Setup, run: Path, pool: Workers, old: Path | None) -> Setup:
    if setup.match != "tokens" or setup.match_params:
        pool.run(check_training, setup)
    if setup.match_params:
        setup = with_ranks(setup, pool.run(_ranks, (setup.pair, setup.recipes)))
    if setup.match == "flops":
        setup = with_prices(setup, pool.run(_flops, (setup.pair, setup.recipes)))
    elif setup.match == "seconds":
        known = {**(read_pace(old, setup) if old else {}), **read_pace(run, setup)}
        unknown = tuple(recipe for recipe in setup.recipes if recipe.name not in known)
        if unknown:
            known |= pool.run(_seconds, replace(setup, recipes=unknown))
        setup = with_prices(setup, {recipe.name: known[recipe.name] for recipe in setup.recipes})
    return setup


# Heavy imports stand inside: the process that hands out the work never loads torch.


def _ranks(job: tuple[Pair, tuple[Recipe, ...]]) -> dict[str, Rank]:
    from sails_eval.plan.cost.method_cost import matched_ranks

    return matched_ranks(*job)


def _flops(job: tuple[Pair, tuple[Recipe, ...]]) -> dict[str, Price]:
    from sails_eval.plan.cost.method_cost import flops_prices

    return flops_prices(*job)


def _seconds(setup: Setup) -> dict[str, Price]:
    from sails_eval.plan.cost.method_cost import seconds_prices

    return seconds_prices(setup)


def with_ranks(setup: Setup, ranks: Mapping[str, Rank]) -> Setup:
    """The setup whose recipes have these ranks."""
    recipes = ranked(setup.pair, setup.recipes, ranks)
    notes = {name: found.note for name, found in ranks.items() if found.note}
    return _identified(replace(setup, recipes=recipes, notes=notes))


def with_prices(setup: Setup, prices: Mapping[str, Price]) -> Setup:
    """The setup whose methods have as many tokens as the budget gives them."""
    try:
        tokens = share_out(prices, setup.pair.tokens, setup.match)
    except UserError as error:
        raise UserError(f"pair '{setup.pair.name}': {error}") from error
    setup = replace(setup, prices=dict(prices), tokens=tokens)
    return _identified(setup, tokens=tokens)


def misjudged(setup: Setup, took: Mapping[str, Took]) -> dict[str, str]:
    """What to know of methods whose cells took other FLOPs than foretold, where these are matched."""
    notes = {}
    for name, one in took.items() if setup.match == "flops" else ():
        foretold = setup.prices[name].of(one.tokens) - setup.prices[name].saes
        if abs(one.flops / foretold - 1) > MISJUDGED:
            notes[name] = f"a cell and its preparation took {one.flops:.3g} FLOPs, where {foretold:.3g} were foretold"
    return notes


def _identified(setup: Setup, **more: object) -> Setup:
    """The setup with the hashes that its recipes have now."""
    training = setup.identity["training"]
    told = {
        recipe.name: recipe_identity(recipe, {**training, "tokens": setup.tokens_of(recipe)})
        for recipe in setup.recipes
    }
    return replace(setup, identity={**setup.identity, "recipes": told, **more})


def read_pace(run: Path, setup: Setup) -> dict[str, Price]:
    """What a run folder says was measured of the setup's recipes, where they were the same; nothing where it is new."""
    path = run / PACE
    if not path.exists():
        return {}
    found = read_json(path)
    same = {name: found[name]["price"] for name, of in _timed(setup).items() if found.get(name, {}).get("recipe") == of}
    return {name: Price(**price) for name, price in same.items()}


def write_pace(run: Path, setup: Setup) -> None:
    """Keep what was measured of a run that matches seconds, before it begins, so that it has the same cells again."""
    if setup.match == "seconds":
        prices = {**setup.prices, **read_pace(run, setup)}
        told = {name: {"recipe": of, "price": asdict(prices[name])} for name, of in _timed(setup).items()}
        write_json(run / PACE, told, sort_keys=True)


def _timed(setup: Setup) -> dict[str, str]:
    """Hashes of all that the recipes' pace hangs on, besides the machine."""
    return {recipe.name: recipe_identity(recipe, setup.identity["training"]) for recipe in setup.recipes}


def check_machine(config: CompareConfig) -> None:
    """See that a comparison fits this machine's memory and disk. Raises UserError where it surely does not."""
    from sails_eval.plan.cost import forecast

    forecast.check_machine(config)
