"""What the stages came to, and the files that say so: results.csv, leaderboard.csv and leaderboard.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from sails_eval.boards.curves import Point
from sails_eval.boards.leaderboard import Provenance, RowFacts, build
from sails_eval.boards.plot import tradeoff
from sails_eval.boards.scoring import write_results
from sails_eval.boards.table import to_markdown, write_frame
from sails_eval.core.files import write_text
from sails_eval.judges import load_judge
from sails_eval.plan.parts import Part, max_examples
from sails_eval.run.folder.layout import _subspace
from sails_eval.run.report.curves import budget_points, rate_points, write_curves
from sails_eval.run.report.ledger import ledger, write_ledger
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.report.row_facts import _sae_tokens


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


def write_outcome(run: Path, outcome: Outcome, described: dict[str, Any]) -> None:
    """Write results.csv, budget.csv, the leaderboard, the curves and the pictures of one pair at one budget."""
    setup, name = outcome.setup, outcome.setup.pair.name
    selection = {
        recipe.name: {**_subspace(run, recipe)["cost"], "sae_tokens": _sae_tokens(run, setup, recipe)}
        for recipe in setup.recipes
        if recipe.init
    }
    write_ledger(run / "budget.csv", ledger(run, setup.all_cells(), selection, setup=setup))
    frame = write_report(run, outcome, described, title=f"Leaderboard of {name}")
    tradeoff(outcome.results, outcome.tasks, outcome.all_choices, run / "tradeoff.png")
    write_curves(run, rate_points([outcome], frame), title=f"Curves of {name}")


def write_joint(run: Path, parts: Sequence[Part], outcomes: Sequence[Outcome], described: dict[str, Any]) -> None:
    """Write the leaderboards and curves of all parts together: over the pairs, and over the budgets.

    The run's leaderboard is that of the largest budget. Where there are several pairs, too, every budget's is in a
    folder named after the budget, beside those of the pairs.
    """
    names = ", ".join(dict.fromkeys(part.pair for part in parts))
    budgets: dict[int | None, list[Outcome]] = {}
    frames: dict[int | None, pd.DataFrame] = {}
    points: list[Point] = []
    for part, outcome in zip(parts, outcomes, strict=True):
        budgets.setdefault(part.examples, []).append(outcome)
    for examples, these in budgets.items():
        title = f"Leaderboard of {names}" + (f" with {examples} examples" if examples else "")
        frames[examples] = frame = board(these, described)
        points += rate_points(these, frame, examples)
        if examples and len(these) > 1:
            write_board(run / f"examples-{examples}", frame, title=title)
        if examples == max_examples(parts):
            write_board(run, frame, title=title)
    points += budget_points(
        {n: these for n, these in budgets.items() if n}, {n: frame for n, frame in frames.items() if n}
    )
    write_curves(run, points, title=f"Curves of {names}")
