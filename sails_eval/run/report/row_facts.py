"""What a leaderboard says of a row besides its scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sails_eval.boards.leaderboard import RowFacts
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import BASE
from sails_eval.plan.price import Took
from sails_eval.plan.setup import Cell, Setup
from sails_eval.run.folder.layout import _subspace, train_record
from sails_eval.run.report.ledger import sae_tokens
from sails_eval.training.labels import LABELS


def _facts(run: Path, setup: Setup, chosen: Sequence[Cell]) -> dict[str, RowFacts]:
    """What the leaderboard says of each row besides its scores."""
    model = setup.pair.name
    facts = {BASE: RowFacts(model)}
    for recipe in setup.recipes:
        cells = [cell for cell in chosen if cell.recipe == recipe]
        records = [train_record(run, cell) for cell in cells]
        facts[recipe.name] = RowFacts(
            model=model,
            sae="; ".join(_subspace(run, recipe)["saes"]) if recipe.init else "",
            seeds=len(cells),
            trainable_params=records[0]["trainable_params"],
            trainable_pct=round(100 * records[0]["trainable_params"] / records[0]["total_params"], 4),
            train_tokens=round(sum(record["tokens"] for record in records) / len(records)),
            sae_tokens=_sae_tokens(run, setup, recipe),
            tuning_trials=setup.trials,
            **{key: max(record[key] for record in records) for key in LABELS},
            saw=tuple(_subspace(run, recipe)["saw"]) if recipe.init else (),
        )
    return facts | {row.name: RowFacts(row.model) for row in setup.finished}


def _took(run: Path, setup: Setup) -> dict[str, Took]:
    """What every method's cells took, where FLOPs are matched: nobody else needs to know."""
    found = {}
    for recipe in setup.recipes if setup.match == "flops" else ():
        records = [train_record(run, cell) for cell in setup.cells(recipe)]
        before = _subspace(run, recipe)["cost"]["flops"] if recipe.init else 0
        flops, tokens = (sum(record[key] for record in records) / len(records) for key in ("flops", "tokens"))
        found[recipe.name] = Took(before + flops, tokens)
    return found


def _sae_tokens(run: Path, setup: Setup, recipe: Recipe) -> int | None:
    """The tokens that the SAEs of a recipe's initialisation were trained on: 0 without SAEs, None where unknown."""
    if not (recipe.init and _subspace(run, recipe)["saes"]):
        return 0
    return sae_tokens(setup.pair.sae_sources(recipe.settings.get("saes")))
