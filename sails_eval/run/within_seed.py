"""What one seed alone can tell: whether two trainings differ on the same prompts, by McNemar's exact test."""

from collections.abc import Mapping, Sequence

from sails_eval.boards.contrasts import default_contrasts
from sails_eval.boards.scoring import successes
from sails_eval.core.records import Kind
from sails_eval.core.stats import mcnemar, p_text
from sails_eval.run.runner import Evaluator
from sails_eval.run.stages import Subject

TOLD: dict[Kind, str] = {"harmful": "refusal", "safe": "helpfulness"}


def notes(evaluator: Evaluator, subjects: Sequence[Subject]) -> dict[str, list[str]]:
    """Per method, a line for every comparison declared with it first, over the test prompts of either kind.

    `subjects` are one per method.
    """
    by_method = {subject.method: subject for subject in subjects}
    contrasts = evaluator.plan.contrasts
    if contrasts is None:
        contrasts = default_contrasts(list(by_method))
    answered = {
        kind: {method: _successes(evaluator, subject, kind) for method, subject in by_method.items()} for kind in TOLD
    }
    lines: dict[str, list[str]] = {}
    for a, b in ((one.a, one.b) for one in contrasts if {one.a, one.b} <= by_method.keys()):
        tested = ", ".join(f"{told} {_tested(answered[kind], a, b)}" for kind, told in TOLD.items())
        lines.setdefault(a, []).append(
            f"against {b} within the one seed, by McNemar's exact test: {tested} (about these two training "
            "runs, not about the methods)"
        )
    return lines


def _successes(evaluator: Evaluator, subject: Subject, kind: Kind) -> list[bool | None]:
    found: list[bool | None] = []
    for task in evaluator.plan.tasks:
        if task.kind == kind and not task.seen_in_training:
            verdicts = subject.folder.verdicts("test", task.name, evaluator.plan.identity.judge)
            found += successes(kind, subject.folder.answers("test", task.name), verdicts)
    return found


def _tested(answered: Mapping[str, Sequence[bool | None]], a: str, b: str) -> str:
    """`p = 0.012 (better on 9 prompts, worse on 1 of 96)`; prompts that either has unscored are left out."""
    both = [
        (one, other)
        for one, other in zip(answered[a], answered[b], strict=True)
        if one is not None and other is not None
    ]
    better, worse = (sum(pair == which for pair in both) for which in ((True, False), (False, True)))
    p = mcnemar(*zip(*both, strict=True)) if both else 1.0
    return f"{p_text(p)} (better on {better}, worse on {worse} of {len(both)} prompts)"
