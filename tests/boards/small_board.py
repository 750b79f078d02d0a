"""A small board whose numbers are known, for tests of what boards say and how they are published."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sails_eval.boards.contrasts import Contrast, Design
from sails_eval.boards.facts import Provenance, RowFacts
from sails_eval.boards.leaderboard import CellKey, build
from sails_eval.core.records import Kind, Result, Split


@dataclass(frozen=True)
class Info:
    kind: Kind
    seen_in_training: bool = False


TASKS = {
    "unseen": Info("harmful"),
    "wrapped": Info("harmful"),
    "seen": Info("harmful", seen_in_training=True),
    "safe": Info("safe"),
    "facts": Info("capability"),
}
PROVENANCE = Provenance(judge="rules", date="2026-11-22", version="0.1.0", run="r1", agreement="99 % of 100 answers")
RATES = (1e-4, 1e-3, 1e-2)


def answered(cell: CellKey, *, refused: float, helpful: float, unscored: int = 0) -> list[Result]:
    """Results of one cell: `refused` of unseen, 0.2 less of wrapped, and none of the seen task, which must not count.

    Half of what is not refused is safe all the same.
    """
    harm = {"harm_score": 5 - 4 * refused, "high_risk_rate": 1 - refused, "broken_rate": 0.1}
    values = {
        "unseen": {"refusal_rate": refused, "safety_rate": (1 + refused) / 2, **harm},
        "wrapped": {"refusal_rate": refused - 0.2, "safety_rate": (0.8 + refused) / 2, "harm_score": 3.0,
                    "high_risk_rate": 0.3, "broken_rate": 0.3},
        "seen": {"refusal_rate": 0.0, "safety_rate": 0.0, "harm_score": 5.0, "high_risk_rate": 1.0, "broken_rate": 1.0},
        "safe": {"over_refusal_rate": 1 - helpful, "helpfulness": helpful, "broken_rate": 0.2},
        "facts": {"capability": 0.75},
    }  # fmt: skip
    return [
        Result(*cell[:3], cell.split, task, category, metric, value / share, 100, unscored)
        for task, metrics in values.items()
        for metric, value in metrics.items()
        for category, share in (("all", 1), ("poison", 2))  # a single category is not the headline's business
    ]


def run(method: str, split: Split, rate: float | None, *points: tuple[float, float]) -> list[Result]:
    """A cell per seed, or one without a seed where there is no rate, from pairs of refusal and helpfulness."""
    return [
        result
        for seed, (refused, helpful) in enumerate(points)
        for result in answered(
            CellKey(method, None if rate is None else seed, rate, split), refused=refused, helpful=helpful
        )
    ]


def facts(seeds: int = 5) -> RowFacts:
    return RowFacts("tiny", "", seeds, 1000, 0.19, 20000, 3)


SAILS = ((0.90, 0.90), (0.92, 0.91), (0.94, 0.90), (0.93, 0.91), (0.91, 0.93))
LORA = ((0.90, 0.91), (0.93, 0.90), (0.93, 0.90), (0.92, 0.91), (0.92, 0.93))  # the same on average
FULL = ((0.60, 0.80), (0.61, 0.82), (0.62, 0.81), (0.60, 0.81), (0.62, 0.82))


def example(base: tuple[float, float] = (0.3, 0.9), seeds: int = 5) -> tuple[list[Result], dict[str, RowFacts]]:
    results = [
        *run("sails", "test", 1e-3, *SAILS[:seeds]),
        *run("lora", "test", 1e-3, *LORA[:seeds]),
        *run("full", "test", 1e-3, *FULL[:seeds]),
        *run("base", "test", None, base),
    ]
    return results, {"base": facts(0), "sails": facts(seeds), "lora": facts(seeds), "full": facts(seeds)}


def built(
    results: list[Result], known: dict[str, RowFacts], *, contrasts: list[tuple[str, str]] | None = None
) -> pd.DataFrame:
    design = None if contrasts is None else Design(tuple(Contrast(*one) for one in contrasts))
    return build({"tiny": results}, TASKS, known, provenance=PROVENANCE, design=design)


def board(run_name: str = "r1", seeds: int = 5) -> pd.DataFrame:
    results, known = example(seeds=seeds)
    return build({"tiny": results}, TASKS, known, provenance=replace(PROVENANCE, run=run_name))


def row_of(frame: pd.DataFrame, method: str) -> dict[str, Any]:
    return {str(key): value for key, value in frame.set_index("method").loc[method].items()}
