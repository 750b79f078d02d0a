"""The ledger of a comparison: what every cell cost, and the proof that every method had the same."""

from pathlib import Path
from typing import Any

import pandas as pd

from sails_eval.core.escape import neutralise
from sails_eval.core.files import write_text
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.run.folder.records import PreparationCost
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.row_facts import sae_tokens
from sails_eval.training.labels import LABELS

MATCHED = ("tokens", "steps", "examples", "unique_examples")
"""What has to be equal between the methods of one objective, seed by seed.

DPO reads both answers of an example and so sees fewer of them; its tokens end with its own first whole step at the
budget.
"""

COSTS = ("flops", "seconds", "peak_memory_bytes", "trainable_params")


def ledger(run: RunFolder, sub_run: SubRun) -> pd.DataFrame:
    """One row per cell, with what its method's initialisation cost: spent once per run, or once per seed where each
    contrasts its own sample, and shown beside each of the cells.

    Where FLOPs or seconds are matched, it has the column `matched_flops` or `matched_seconds`, `regularise` where
    training is regularised, and `kept_step` where cells stop early. Raises ValueError if the matched columns are not
    equal between methods of one objective seed by seed.
    """
    rows = [_row(run, sub_run, cell) for cell in sub_run.all_cells()]
    frame = pd.DataFrame(rows).sort_values(["method", "learning_rate", "seed"], ignore_index=True)
    if frame["sae_tokens"].isna().any():
        frame["sae_tokens"] = frame["sae_tokens"].astype("Int64")
    matched = bool(sub_run.budget.costs)
    own = frame["method"].where(frame["method"].isin([*sub_run.budget.examples]), frame["objective"])
    alike = frame["method"] if matched else own
    for column in MATCHED:
        spread = frame.groupby([alike, frame["seed"]])[column].nunique()
        if (spread > 1).any():
            told = "method" if matched else "objective"
            raise ValueError(
                f"budgets differ: {column} is not the same for all cells of a seed and {told}; see train.json"
            )
    if sub_run.pair.regularise:
        frame["regularise"] = str(sub_run.pair.regularise)
    return _with_matched(frame, sub_run) if matched else frame


def _with_matched(frame: pd.DataFrame, sub_run: SubRun) -> pd.DataFrame:
    """The ledger with what every cell took of what is matched, its preparation included.

    Raises ValueError where that is not the budget up to a step, which is at most a batch of the longest examples.
    """
    spent, step = [], sub_run.pair.batch_size * sub_run.pair.max_length
    for method, seen in zip(frame["method"], frame["tokens"], strict=True):
        cost, tokens = sub_run.budget.costs[method], sub_run.budget.tokens[method]
        if not tokens <= seen < tokens + step:
            raise ValueError(f"budgets differ: {method} should have {tokens} tokens, but has {seen}")
        spent.append(float(f"{cost.of(seen):.6g}"))
    return frame.assign(**{f"matched_{sub_run.budget.match}": spent})


def write_ledger(path: Path, frame: pd.DataFrame) -> None:
    """Write budget.csv, by rename."""
    harmless = frame.map(lambda cell: neutralise(cell) if isinstance(cell, str) else cell)
    write_text(path, harmless.to_csv(index=False, lineterminator="\n"))


def _row(run: RunFolder, sub_run: SubRun, cell: Cell) -> dict[str, Any]:
    recipe, record = cell.recipe, run.cell(cell).record()
    cost = run.subspace_report(recipe.name, cell.start_seed).cost if recipe.init else PreparationCost()
    return {
        "method": recipe.name,
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        "objective": recipe.objective,
        **{key: getattr(record, key) for key in (*MATCHED, *LABELS, *COSTS)},
        "trainable_pct": round(100 * record.trainable_params / record.total_params, 4),
        "selection_tokens": cost.tokens,
        "selection_flops": cost.flops,
        "selection_seconds": cost.seconds,
        "sae_flops": cost.sae_flops,
        "sae_tokens": sae_tokens(run, sub_run, recipe),
        **({"kept_step": run.cell(cell).stopped().step} if cell.checkpoints > 1 else {}),
    }
