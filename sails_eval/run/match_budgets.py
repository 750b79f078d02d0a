"""Budgets other than tokens: how many tokens each method gets where FLOPs, seconds or trained parameters are matched.

The budget is what the cheapest method takes for all of `--tokens`: its preparation and its training. Whoever costs more
trains on fewer tokens, nobody on more. What a method costs is found in a worker (`plan/cost/method_cost.py`).
"""

from collections.abc import Mapping
from dataclasses import replace

from sails_eval.core.errors import UserError
from sails_eval.core.version import __version__
from sails_eval.plan.budget import Budget, Cost, Rank, Took, ranked, share_out
from sails_eval.plan.checks import check_training
from sails_eval.plan.identity import recipe_identity
from sails_eval.plan.plan import Plan, SubRun
from sails_eval.run.folder.records import Pace, Timed
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.workers import Workers, late

COSTS = "sails_eval.plan.cost.method_cost"
"""Imported in a worker only: it takes torch."""

MISJUDGED = 0.05
"""The share by which the FLOPs that a method took may miss their forecast before the board says so."""


def matched(plan: Plan, pool: Workers, run: RunFolder, *, old: RunFolder | None = None) -> Plan:
    """The plan with each method's rank and number of tokens, where something else than tokens is matched.

    `old` is the run that this one extends: the pace measured there holds here. Raises UserError as `share_out` does.
    """
    found = [_matched(one, pool, run.sub_run(one), old and old.sub_run(one)) for one in plan.sub_runs]
    return replace(plan, sub_runs=tuple(found))


def _matched(sub_run: SubRun, pool: Workers, run: RunFolder, old: RunFolder | None) -> SubRun:
    budget = sub_run.budget
    if budget.match != "tokens" or budget.match_params:
        pool.run(check_training, sub_run)
    if budget.match_params:
        sub_run = with_ranks(sub_run, pool.run(late, (f"{COSTS}:matched_ranks", (sub_run.pair, sub_run.recipes))))
    if budget.match == "flops":
        pair = sub_run.as_identified  # so that tokens are the same on every machine
        sub_run = with_costs(sub_run, pool.run(late, (f"{COSTS}:flops_costs", (pair, sub_run.recipes))))
    elif budget.match == "seconds":
        known = {**(read_pace(old, sub_run) if old else {}), **read_pace(run, sub_run, any_version=True)}
        unknown = tuple(recipe for recipe in sub_run.recipes if recipe.name not in known)
        if unknown:
            known |= pool.run(late, (f"{COSTS}:seconds_costs", (replace(sub_run, recipes=unknown),)))
        sub_run = with_costs(sub_run, {recipe.name: known[recipe.name] for recipe in sub_run.recipes})
    return sub_run


def with_ranks(sub_run: SubRun, ranks: Mapping[str, Rank]) -> SubRun:
    """The sub-run whose recipes have these ranks."""
    recipes = ranked(sub_run.pair, sub_run.recipes, ranks)
    notes = {name: found.note for name, found in ranks.items() if found.note}
    notes = {**sub_run.budget.notes, **notes}
    return _identified(replace(sub_run, recipes=recipes), replace(sub_run.budget, notes=notes))


def with_costs(sub_run: SubRun, costs: Mapping[str, Cost]) -> SubRun:
    """The sub-run whose methods have as many tokens as the budget gives them."""
    try:
        tokens = share_out(costs, sub_run.pair.tokens, sub_run.budget.match)
    except UserError as error:
        raise UserError(f"pair '{sub_run.pair.name}': {error}") from error
    return _identified(sub_run, replace(sub_run.budget, costs=dict(costs), tokens=tokens))


def misjudged(budget: Budget, took: Mapping[str, Took]) -> dict[str, str]:
    """What to know of methods whose cells took other FLOPs than foretold, where these are matched."""
    notes = {}
    for name, one in took.items() if budget.match == "flops" else ():
        foretold = budget.costs[name].of(one.tokens) - budget.costs[name].saes
        if abs(one.flops / foretold - 1) > MISJUDGED:
            notes[name] = f"a cell with its preparation took {one.flops:.3g} FLOPs, but {foretold:.3g} were predicted"
    return notes


def _identified(sub_run: SubRun, budget: Budget) -> SubRun:
    """The sub-run with another budget, and the hashes that its recipes have with it."""
    sub_run = replace(sub_run, budget=budget)
    told = {recipe.name: recipe_identity(recipe, sub_run.training_of(recipe)) for recipe in sub_run.recipes}
    identity = sub_run.identity.model_copy(update={"recipes": told, "tokens": dict(budget.tokens)})
    return replace(sub_run, identity=identity)


def read_pace(run: RunFolder, sub_run: SubRun, *, any_version: bool = False) -> dict[str, Cost]:
    """What a run folder says was measured of the recipes, where they were the same; nothing where it is new.

    Of a run by another version of this package, hashes cannot tell; with `any_version` it is taken as it is.
    """
    found = run.pace().recipes if run.pace.exists else {}
    other_version = any_version and run.exists and run.description().version != __version__
    return {
        name: found[name].cost
        for name, recipe in _timed(sub_run).items()
        if name in found and (other_version or found[name].recipe == recipe)
    }


def write_pace(run: RunFolder, sub_run: SubRun) -> None:
    """Keep what was measured of a run that matches seconds, before it begins, so that it has the same cells again."""
    if sub_run.budget.match == "seconds":
        costs = {**sub_run.budget.costs, **read_pace(run, sub_run)}
        timed = {name: Timed(recipe=of, cost=costs[name]) for name, of in sorted(_timed(sub_run).items())}
        Pace(recipes=timed).write(run.pace.path)


def _timed(sub_run: SubRun) -> dict[str, str]:
    """Hashes of all that the recipes' speed depends on, besides the machine."""
    return {recipe.name: recipe_identity(recipe, sub_run.identity.training) for recipe in sub_run.recipes}
