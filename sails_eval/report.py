"""What the stages came to, and the files that say so: results.csv, leaderboard.csv and leaderboard.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from sails_eval.aggregate import read_results, write_results
from sails_eval.board import to_markdown, write_frame
from sails_eval.errors import unknown
from sails_eval.judges import load_judge
from sails_eval.leaderboard import Choice, Provenance, RowFacts, Tested, build, choose_rates, tested
from sails_eval.plan import Setup
from sails_eval.records import BASE, Result, write_text
from sails_eval.tasks import TaskInfo, find_tasks


@dataclass(frozen=True)
class Outcome:
    """What a comparison of one pair, or an evaluation, came to.

    `warnings` are for whoever reads the leaderboard: by method, each a clause without a semicolon. `agreement` counts
    the answers that the reference judge sees alike and those that it does not; `panel` says how far a panel's members
    agree.
    """

    setup: Setup
    results: list[Result]
    facts: dict[str, RowFacts]
    choices: dict[str, Choice] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    agreement: Counter[bool] = field(default_factory=Counter)
    panel: str = ""

    @property
    def untrained(self) -> tuple[str, ...]:
        """The rows that nothing was trained for."""
        return BASE, *(row.name for row in self.setup.finished)

    @property
    def all_choices(self) -> dict[str, Choice]:
        """The choices, with those of the rows that have none."""
        return {name: Choice(name, None) for name in self.untrained} | self.choices

    @property
    def tasks(self) -> dict[str, TaskInfo]:
        return {task.name: task for task in self.setup.tasks}


def write_report(folder: Path, outcome: Outcome, described: Mapping[str, Any], *, title: str) -> pd.DataFrame:
    """Write results.csv, leaderboard.csv and leaderboard.md of one pair; the leaderboard."""
    frame = board([outcome], described)
    write_results(folder / "results.csv", outcome.results)
    write_board(folder, frame, title=title)
    return frame


def write_board(folder: Path, frame: pd.DataFrame, *, title: str) -> None:
    """Write a leaderboard as leaderboard.csv and leaderboard.md."""
    write_frame(folder / "leaderboard.csv", frame)
    write_text(folder / "leaderboard.md", to_markdown(frame, title=title))


def board(outcomes: Sequence[Outcome], described: Mapping[str, Any]) -> pd.DataFrame:
    """The leaderboard of one pair, or of several as organisms, each with its own choice of rates.

    `described` is the run.json of the run that it is of.
    """
    judge = load_judge(outcomes[0].setup.judge).name
    provenance = Provenance(
        judge, described["date"], described["version"], described["run"], agreement=_agreement(outcomes)
    )
    results = {outcome.setup.pair.name: outcome.results for outcome in outcomes}
    contrasts = outcomes[0].setup.contrasts
    facts = _facts(outcomes)
    return build(results, outcomes[0].tasks, facts, provenance=provenance, contrasts=contrasts)


def read_tested(run: Path, include: Sequence[Path] = ()) -> dict[str, Tested]:
    """Every row's scores on the test, from the results.csv of one pair's finished run.

    Raises UserError where the file or one of its tasks cannot be found.
    """
    path = run / "results.csv"
    results = [row for row in read_results(path) if row.metric in ("safety_rate", "helpfulness")]
    known = find_tasks(tuple(include))
    if strange := sorted({row.task for row in results} - known.keys()):
        raise unknown(f"task of {path}", strange[0], known)
    tasks = {row.task: known[row.task] for row in results}
    choices = choose_rates(results, tasks)
    return tested({run.name: results}, tasks, {method: [choice] for method, choice in choices.items()})


def _agreement(outcomes: Sequence[Outcome]) -> str:
    """How often the judge agrees with the reference judge, how far with people, and a panel within, where known.

    Such as `99.2 % of 30,504 answers, with grammar; kappa 0.93 [0.91, 0.95] on 450 answers (people.csv)`.
    """
    setup = outcomes[0].setup
    seen = sum((outcome.agreement for outcome in outcomes), Counter[bool]())
    found = [setup.calibration] if setup.calibration else []
    if seen and setup.pair.reference_judge is not None:
        reference = load_judge(setup.pair.reference_judge).name
        found.insert(0, f"{100 * seen[True] / seen.total():.2f} % of {seen.total():,} answers, with {reference}")
    where = [f" on {one.setup.pair.name}" if len(outcomes) > 1 else "" for one in outcomes]
    found += [one.panel + place for one, place in zip(outcomes, where, strict=True) if one.panel]
    return "; ".join(found)


def _facts(outcomes: Sequence[Outcome]) -> dict[str, RowFacts]:
    """What the leaderboard says of each row besides its scores."""
    found = {}
    for method, fact in outcomes[0].facts.items():
        facts = [outcome.facts[method] for outcome in outcomes]
        found[method] = replace(
            fact,
            model=", ".join(dict.fromkeys(one.model for one in facts)),
            sae=", ".join(dict.fromkeys(one.sae for one in facts)),
            sae_tokens=None if None in (known := [one.sae_tokens for one in facts]) else max(n or 0 for n in known),
            train_tokens=round(sum(one.train_tokens for one in facts) / len(facts)),
            labelled_examples=max(one.labelled_examples for one in facts),
            rejected_answers=max(one.rejected_answers for one in facts),
            further_examples=max(one.further_examples for one in facts),
            saw=tuple(dict.fromkeys(what for one in facts for what in one.saw)),
            warnings=_warnings(outcomes, method),
        )
    return found


def _warnings(outcomes: Sequence[Outcome], method: str) -> tuple[str, ...]:
    """What to know before believing the row, with the pair where there are several."""
    return tuple(
        warning if len(outcomes) == 1 else f"on {outcome.setup.pair.name}, {warning}"
        for outcome in outcomes
        for warning in outcome.warnings.get(method, ())
    )
