"""What the stages came to, and the files that say so: results.csv, leaderboard.csv and leaderboard.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sails_eval.aggregate import write_results
from sails_eval.board import METRICS, make_frame, to_markdown, write_frame
from sails_eval.judges import load_judge
from sails_eval.leaderboard import Choice, Provenance, RowFacts, build
from sails_eval.plan import Setup
from sails_eval.records import Result, write_text
from sails_eval.tasks import TaskInfo


@dataclass(frozen=True)
class Outcome:
    """What a comparison of one pair, or an evaluation, came to; `warnings` are for whoever reads the leaderboard."""

    setup: Setup
    results: list[Result]
    facts: dict[str, RowFacts]
    choices: dict[str, Choice] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def tasks(self) -> dict[str, TaskInfo]:
        return {task.name: task for task in self.setup.tasks}


def write_report(folder: Path, outcome: Outcome, described: Mapping[str, Any], *, title: str) -> pd.DataFrame:
    """Write results.csv, leaderboard.csv and leaderboard.md of one pair; the leaderboard."""
    frame = board([outcome], described)
    write_results(folder / "results.csv", outcome.results)
    write_board(folder, frame, [outcome], title=title)
    return frame


def write_board(folder: Path, frame: pd.DataFrame, outcomes: Sequence[Outcome], *, title: str) -> None:
    """Write the leaderboard of `outcomes` as leaderboard.csv and leaderboard.md."""
    warnings = [
        warning if len(outcomes) == 1 else f"{outcome.setup.pair.name}: {warning}"
        for outcome in outcomes
        for warning in outcome.warnings
    ]
    write_frame(folder / "leaderboard.csv", frame)
    write_text(folder / "leaderboard.md", to_markdown(frame, title=title, warnings=warnings))


def board(outcomes: Sequence[Outcome], described: Mapping[str, Any]) -> pd.DataFrame:
    """The leaderboard of one pair, or of several as organisms, each with its own choice of rates.

    `described` is the run.json of the run that it is of.
    """
    judge = load_judge(outcomes[0].setup.judge).name
    provenance = Provenance(judge, described["date"], described["version"], described["run"])
    facts, tasks = _facts(outcomes), outcomes[0].tasks
    if len(outcomes) == 1:
        return build(outcomes[0].results, tasks, facts, provenance=provenance)
    # joined at merge: all of this becomes one call of build, with {pair: results} and setup.contrasts. Until then
    # values are means over organisms, and there are no intervals.
    boards = [build(one.results, tasks, one.facts, provenance=provenance).set_index("method") for one in outcomes]
    rows: list[dict[str, Any]] = []
    for method, fact in facts.items():
        row = {str(key): value for key, value in boards[0].loc[method].to_dict().items()} | vars(fact)
        for metric in METRICS:
            mean = sum(float(one[metric][method]) for one in boards) / len(boards)
            row |= {metric: mean, f"{metric}_low": math.nan, f"{metric}_high": math.nan}
        rows.append(row | {"method": method, "tied_with": ""})
    return make_frame(rows)


def _facts(outcomes: Sequence[Outcome]) -> dict[str, RowFacts]:
    """What the leaderboard says of each row besides its scores; a rate only where the organisms have the same."""
    found = {}
    for method, fact in outcomes[0].facts.items():
        facts = [outcome.facts[method] for outcome in outcomes]
        rates = {one.learning_rate for one in facts}
        found[method] = replace(
            fact,
            model=", ".join(dict.fromkeys(one.model for one in facts)),
            sae=", ".join(dict.fromkeys(one.sae for one in facts)),
            train_tokens=round(sum(one.train_tokens for one in facts) / len(facts)),
            learning_rate=rates.pop() if len(rates) == 1 else None,
        )
    return found
