"""The ledger of a comparison: what every cell cost, and the proof that every method had the same."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sails_eval.core.files import write_text
from sails_eval.core.pair import SaeSource
from sails_eval.plan.setup import Cell, Setup
from sails_eval.run.folder.checkpoints import stopped
from sails_eval.run.folder.layout import train_record
from sails_eval.training.labels import LABELS

if TYPE_CHECKING:
    pass

MATCHED = ("tokens", "steps", "examples", "unique_examples")
"""What has to be equal between the methods of one objective, seed by seed.

DPO reads both answers of an example and so sees fewer of them; its tokens end with its own first whole step at the
budget.
"""

COSTS = ("flops", "seconds", "peak_memory_bytes", "trainable_params")


def sae_tokens(sources: Iterable[SaeSource]) -> int | None:
    """The tokens that these SAEs were trained on, all in all; None where that is not known of one of them."""
    known = [source.training_tokens for source in sources]
    return None if None in known else sum(tokens or 0 for tokens in known)


def ledger(
    run: Path, cells: Iterable[Cell], selection: dict[str, dict[str, Any]], *, setup: Setup | None = None
) -> pd.DataFrame:
    """One row per cell. Where `setup` matches FLOPs or seconds, it has the column `matched_flops` or `matched_seconds`,
    `regularise` where training is regularised, and `kept_step` where cells stop early.

    `selection` is what a method's initialisation cost (tokens, FLOPs, seconds, the FLOPs of training SAEs of the pair's
    own, and the tokens of its SAEs, None where unknown): spent once per run, shown beside each of its cells. Raises
    ValueError if the matched columns are not equal between methods of one objective seed by seed.
    """
    rows = [_row(run, cell, selection.get(cell.recipe.name, {})) for cell in cells]
    frame = pd.DataFrame(rows).sort_values(["method", "learning_rate", "seed"], ignore_index=True)
    if frame["sae_tokens"].isna().any():
        frame["sae_tokens"] = frame["sae_tokens"].astype("Int64")
    matched = setup is not None and bool(setup.prices)
    alike = "method" if matched else "objective"
    for column in MATCHED:
        spread = frame.groupby([alike, "seed"])[column].nunique()
        if (spread > 1).any():
            raise ValueError(
                f"budgets differ: {column} is not the same for all cells of a seed and {alike}; see train.json"
            )
    if setup and setup.pair.regularise:
        frame["regularise"] = str(setup.pair.regularise)
    return _with_matched(frame, setup) if setup and matched else frame


def _with_matched(frame: pd.DataFrame, setup: Setup) -> pd.DataFrame:
    """The ledger with what every cell took of what is matched, its preparation included.

    Raises ValueError where that is not the budget up to a step, which is at most a batch of the longest examples.
    """
    spent, step = [], setup.pair.batch_size * setup.pair.max_length
    for method, seen in zip(frame["method"], frame["tokens"], strict=True):
        price, tokens = setup.prices[method], setup.tokens[method]
        if not tokens <= seen < tokens + step:
            raise ValueError(f"budgets differ: {method} was to have {tokens} tokens, and has {seen}")
        spent.append(float(f"{price.of(seen):.6g}"))
    return frame.assign(**{f"matched_{setup.match}": spent})


def write_ledger(path: Path, frame: pd.DataFrame) -> None:
    """Write budget.csv, by rename."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def _row(run: Path, cell: Cell, selection: dict[str, Any]) -> dict[str, Any]:
    record = train_record(run, cell)
    return {
        "method": cell.recipe.name,
        "learning_rate": cell.learning_rate,
        "seed": cell.seed,
        "objective": cell.recipe.objective,
        **{key: record[key] for key in (*MATCHED, *LABELS, *COSTS)},
        "trainable_pct": round(100 * record["trainable_params"] / record["total_params"], 4),
        **{f"selection_{key}": selection.get(key, 0) for key in ("tokens", "flops", "seconds")},
        "sae_flops": selection.get("sae_flops", 0),
        "sae_tokens": selection.get("sae_tokens", 0),
        **({"kept_step": stopped(run / cell.folder)["step"]} if cell.checkpoints > 1 else {}),
    }
