"""What the stand-ins of a panel's and a cascade's members have in common."""

from abc import abstractmethod
from collections.abc import Sequence

from sails_eval.core.records import Completion, Verdict
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore


class SaysEach(Judge):
    """Has a verdict on every completion by itself, tells them in any order, and notes what it was asked about."""

    fingerprint = ""

    def __init__(self, position: int, *, parallel: bool = True) -> None:
        self.position, self.parallel = position, parallel
        self.name, self.fingerprint = f"judge {position}", f"print {position}"
        self.asked: list[str] = []

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        self.asked += [completion.response for completion in completions]
        verdicts = [self.say(completion) for completion in completions]
        for verdict in reversed(verdicts):
            on_verdict(verdict)
        return verdicts

    @abstractmethod
    def say(self, completion: Completion) -> Verdict:
        """The verdict on one."""
