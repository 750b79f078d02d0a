"""What the stages came to, and the files that say so: results.csv, leaderboard.csv and leaderboard.md."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from sails_eval.boards.contrasts import Design
from sails_eval.boards.curves import Point
from sails_eval.boards.facts import Provenance, RowFacts
from sails_eval.boards.forest import draw_comparisons
from sails_eval.boards.leaderboard import build
from sails_eval.boards.page import smoke_test, to_markdown
from sails_eval.boards.plot import tradeoff
from sails_eval.boards.table import EXPLORATORY, frame_text, rows_of
from sails_eval.core.checksums import write_checked
from sails_eval.core.files import write_text
from sails_eval.plan.budget import Size
from sails_eval.plan.plan import EvaluationPlan, Plan, SubRun
from sails_eval.run.folder.records import Description
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.report.curves import budget_points, rate_points, write_curves
from sails_eval.run.report.ledger import ledger, write_ledger
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.report.row_facts import by_kind


def write_report(run: RunFolder, outcome: Outcome, described: Description, *, title: str) -> pd.DataFrame:
    """Write results, choices and leaderboard of one pair; the leaderboard."""
    frame = board([outcome], described)
    run.write_results(outcome.results, outcome.all_choices)
    write_board(run, frame, described, title=title)
    return frame


def write_board(run: RunFolder, frame: pd.DataFrame, described: Description, *, title: str) -> None:
    """Write a leaderboard, its page, and the picture of its comparisons, if it has any."""
    write_checked(run.leaderboard, frame_text(frame))
    write_text(run.leaderboard_page, to_markdown(frame, title=title, quick=described.quick))
    if not described.quick:
        draw_comparisons(rows_of(frame), run.forest)


def board(outcomes: Sequence[Outcome], described: Description) -> pd.DataFrame:
    """The leaderboard of one pair, or of several as organisms, each with its own choice of rates.

    `described` is of the run that it is of.
    """
    plan = outcomes[0].plan
    whole = plan.protocol is not None and len(outcomes) == len(plan.protocol.organisms)
    provenance = Provenance(
        plan.judge.name,
        described.date,
        described.version,
        described.run,
        agreement=_agreement(outcomes),
        protocol=plan.protocol.fingerprint if plan.protocol and whole else EXPLORATORY,
    )
    frame = build(
        {outcome.plan.pair.name: outcome.results for outcome in outcomes},
        outcomes[0].tasks,
        _facts(outcomes),
        choices=[outcome.all_choices for outcome in outcomes],
        provenance=provenance,
        design=_design(plan, whole=whole),
        failed={method for outcome in outcomes for method in outcome.failed},
    )
    return smoke_test(frame, described.methods) if described.quick else frame


def _design(plan: EvaluationPlan, *, whole: bool) -> Design | None:
    """What is tested, where that was declared; on single organisms of a confirmation nothing is."""
    if plan.protocol is None:
        return None if plan.contrasts is None else Design(plan.contrasts)
    if not whole:
        return Design((), ())
    assert isinstance(plan, SubRun) and plan.tuning is not None
    return plan.protocol.design(plan.tuning.best)


def _agreement(outcomes: Sequence[Outcome]) -> str:
    """How often the judge agrees with the reference judge, how far with people, and its members within, where known.

    Such as `99.2 % of 30,504 answers, with grammar; kappa 0.93 [0.91, 0.95] on 450 answers (people.csv)`.
    """
    plan = outcomes[0].plan
    seen = sum((outcome.agreement for outcome in outcomes), Counter[bool]())
    found = [plan.calibration] if plan.calibration else []
    if seen and plan.reference_judge is not None and plan.reference_judge.name != plan.judge.name:
        share = f"{100 * seen[True] / seen.total():.2f} % of {seen.total():,} answers"
        found.insert(0, f"{share}, with {plan.reference_judge.name}")
    where = [f" on {one.plan.pair.name}" if len(outcomes) > 1 else "" for one in outcomes]
    found += [one.members + place for one, place in zip(outcomes, where, strict=True) if one.members]
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
            contrast_examples=max(one.contrast_examples for one in facts),
            contrast_tokens=max(one.contrast_tokens for one in facts),
            saw=tuple(dict.fromkeys(what for one in facts for what in one.saw)),
            warnings=_warnings(outcomes, method),
        )
    return found


def _warnings(outcomes: Sequence[Outcome], method: str) -> tuple[str, ...]:
    """What to know before believing the row: of several pairs each kind, which is what stands before a colon, once,
    with all pairs that it is of, as it is on the first."""
    if len(outcomes) == 1:
        return tuple(outcomes[0].warnings.get(method, ()))
    told = {outcome.plan.pair.name: outcome.warnings.get(method, ()) for outcome in outcomes}
    return tuple(_on(of_pairs, len(outcomes)) for of_pairs in by_kind(told))


def _on(warnings: Mapping[str, str], pairs: int) -> str:
    """One kind of warning, by pair, in words."""
    first, told = next(iter(warnings.items()))
    where = ", ".join(warnings) if len(warnings) < pairs else f"all {pairs} pairs"
    alike = len(set(warnings.values())) == 1
    return f"{told} (on {where}{'' if alike else f', figures of {first}'})"


def write_outcome(run: RunFolder, outcome: Outcome, described: Description) -> None:
    """Write results, ledger, leaderboard, curves and pictures of one pair at one budget."""
    sub_run, name = outcome.plan, outcome.plan.pair.name
    assert isinstance(sub_run, SubRun)
    if sub_run.recipes:  # else all failed
        write_ledger(run.ledger, ledger(run, sub_run))
    frame = write_report(run, outcome, described, title=f"Leaderboard of {name}")
    if not described.quick:  # a smoke test has nothing to show in pictures
        tradeoff(outcome.results, outcome.tasks, outcome.all_choices, run.tradeoff)
        write_curves(run, rate_points([outcome], frame), title=f"Curves of {name}")


def write_joint(run: RunFolder, plan: Plan, outcomes: Sequence[Outcome], described: Description) -> None:
    """Write the leaderboards and curves of all sub-runs together: over the pairs, and over the budgets.

    The run's leaderboard is that of the largest budget. Where there are several pairs, too, every budget's is in a
    folder named after the budget, beside those of the pairs.
    """
    names = ", ".join(plan.pairs)
    budgets: dict[Size, list[Outcome]] = {}
    frames: dict[Size, pd.DataFrame] = {}
    points: list[Point] = []
    for one, outcome in zip(plan.sub_runs, outcomes, strict=True):
        budgets.setdefault(one.size, []).append(outcome)
    for size, these in budgets.items():
        title = f"Leaderboard of {names}" + (f" with {size}" if size else "")
        frames[size] = frame = board(these, described)
        points += rate_points(these, frame, size)
        if size and len(these) > 1:
            write_board(run.of_budget(size), frame, described, title=title)
        if size == plan.largest:
            write_board(run, frame, described, title=title)
    if described.quick:
        return
    points += budget_points(budgets, frames)
    write_curves(run, points, title=f"Curves of {names}")
