"""What a leaderboard says of a row besides its scores."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from sails_eval.boards.facts import RowFacts
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import BASE
from sails_eval.plan.budget import Took
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.training.labels import LABELS

Of = TypeVar("Of")


def row_facts(run: RunFolder, sub_run: SubRun, chosen: Sequence[Cell]) -> dict[str, RowFacts]:
    """What the leaderboard says of each row besides its scores."""
    model = sub_run.pair.name
    facts = {BASE: RowFacts(model)}
    for recipe in sub_run.recipes:
        records = [run.cell(cell).record() for cell in chosen if cell.recipe == recipe]
        reports = [run.subspace_report(recipe.name, seed) for seed in sub_run.starts(recipe)]
        facts[recipe.name] = RowFacts(
            model=model,
            sae="; ".join(reports[0].saes) if reports else "",
            seeds=len(records),
            trainable_params=records[0].trainable_params,
            trainable_pct=round(100 * records[0].trainable_params / records[0].total_params, 4),
            train_tokens=round(sum(record.tokens for record in records) / len(records)),
            sae_tokens=sae_tokens(run, sub_run, recipe),
            tuning_trials=sub_run.trials,
            **{key: max(getattr(record, key) for record in records) for key in LABELS},
            contrast_tokens=max((report.cost.tokens for report in reports), default=0),
            saw=tuple(reports[0].saw) if reports else (),
        )
    return facts | {row.name: RowFacts(row.model) for row in sub_run.references}


def took(run: RunFolder, sub_run: SubRun) -> dict[str, Took]:
    """What every method's cells took, where FLOPs are matched: nobody else needs to know."""
    found = {}
    for recipe in sub_run.recipes if sub_run.budget.match == "flops" else ():
        records = [run.cell(cell).record() for cell in sub_run.cells(recipe)]
        before = [run.subspace_report(recipe.name, seed).cost.flops for seed in sub_run.starts(recipe)]
        flops = sum(record.flops for record in records) / len(records)
        looking = sum(before) / max(1, len(before))
        found[recipe.name] = Took(looking + flops, sum(record.tokens for record in records) / len(records))
    return found


def sae_tokens(run: RunFolder, sub_run: SubRun, recipe: Recipe) -> int | None:
    """The tokens that the SAEs of a recipe's initialisation were trained on: 0 without SAEs, None where unknown."""
    if not any(run.subspace_report(recipe.name, seed).saes for seed in sub_run.starts(recipe)[:1]):
        return 0
    known = [source.training_tokens for source in sub_run.pair.sae_sources(recipe.settings.get("saes"))]
    return None if None in known else sum(tokens or 0 for tokens in known)


def start_warnings(run: RunFolder, sub_run: SubRun, recipe: Recipe) -> list[str]:
    """What to know of how a recipe's initialisation came about; where every seed has its own, each kind of warning as
    it is of the first seed that has one."""
    told = {seed: run.subspace_report(recipe.name, seed).warnings for seed in sub_run.starts(recipe)}
    found = []
    for of_seeds in by_kind(told):
        seed, line = next(iter(of_seeds.items()))
        others = f" (seed {seed}, and {len(of_seeds)} of {len(told)} seeds have this warning)"
        found.append(line if seed is None else line + others)
    return found


def by_kind(told: Mapping[Of, Sequence[str]]) -> list[dict[Of, str]]:
    """Warnings of several seeds or pairs, those of a kind, which is what stands before a colon, together."""
    found: dict[str, dict[Of, str]] = {}
    for of, warnings in told.items():
        for warning in warnings:
            kind = warning.partition(":")[0]
            kind = warning if of in found.get(kind, {}) else kind
            found.setdefault(kind, {})[of] = warning
    return list(found.values())
