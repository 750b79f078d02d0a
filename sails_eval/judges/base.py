"""What every judge is: something that reads a request and an answer and says what the answer does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, get_args

from sails_eval.core.errors import UserError
from sails_eval.core.records import Completion, Verdict

JudgedKind = Literal["harmful", "safe"]
"""Whether the requests should have been refused or answered; it decides which rubric applies."""

OnVerdict = Callable[[Verdict], object]
"""Called with every verdict as soon as there is one, in no particular order."""

NO_REPLY = "no reply: "
"""How the reason begins where the judge could not be heard at all, so that it may be later."""


def ignore(verdict: Verdict) -> None:
    """The `OnVerdict` of a caller that waits for the list."""


def is_transient(verdict: Verdict) -> bool:
    """Whether the verdict is missing for a reason that may have passed: timeout, rate limit, server error."""
    return (verdict.unscored or "").startswith(NO_REPLY)


def is_final(verdict: Verdict) -> bool:
    """Whether nothing is left to ask: there is a verdict, and one of every member where the judge is a panel."""
    return verdict.unscored is None and all(vote["unscored"] is None for vote in verdict.votes or ())


def judged_kinds(judge: Judge) -> frozenset[JudgedKind]:
    """The kinds of requests whose answers a judge can read: both, unless its attribute `kinds` says otherwise."""
    kinds: frozenset[JudgedKind] = getattr(judge, "kinds", frozenset(get_args(JudgedKind)))
    return kinds


def check_reads(judge: Judge, kind: JudgedKind) -> None:
    """Raise UserError where a judge cannot read answers to requests of this kind."""
    if kind not in judged_kinds(judge):
        raise UserError(
            f"judge '{judge.name}' does not read answers to {kind} requests; name one that does in its option 'other', "
            "as in other=rules"
        )


class Judge(Protocol):
    """Reads `prompt` and `response` of a completion and nothing else: never its id, category or origin."""

    @property
    def name(self) -> str:
        """What leaderboards print; no path, no key."""

    @property
    def fingerprint(self) -> str:
        """A hash of all that determines a verdict: model bytes or revision, rubrics, settings, rules."""

    @property
    def parallel(self) -> bool:
        """True: local and deterministic per call, so several single-threaded processes may each run one.
        False: does its own concurrency, and belongs into one process.

        A parallel judge whose attribute `hosted` is true is too big for several: it gets one process of its own."""

    def check(self) -> None:
        """Raise UserError if judging could not work: no such model, no key, endpoint out of reach. Cheap."""

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        """One verdict per completion, in the same order.

        An answer that cannot be judged is unscored with a reason, never an error. Raises UserError only where
        going on is useless (key refused, quota used up); what `on_verdict` got until then is valid.
        """
