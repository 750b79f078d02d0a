"""What panels and cascades have in common: several judges that are asked as one."""

from collections.abc import Sequence

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest
from sails_eval.core.records import Completion, Verdict, Vote
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, Usage, ignore
from sails_eval.judges.cache import judge_cached


class Several(Judge):
    """Judges as one. What a subclass decides keeps each member's verdict as a vote."""

    word: str
    """What such a judge is called."""

    version: int
    """Part of the fingerprint: another one for every other way to decide."""

    def __init__(self, members: Sequence[Judge]) -> None:
        """Raises UserError where some members need a process of their own and others this one."""
        self.members = tuple(members)
        self.name = f"{self.word}({', '.join(member.name for member in self.members)})"
        self.kinds = frozenset.intersection(*(member.kinds for member in self.members))
        self.parallel = all(member.parallel for member in self.members)
        self.hosted = any(member.hosted for member in self.members)
        if self.hosted and not self.parallel:
            raise UserError(
                f"a {self.word} cannot have judges on vLLM beside some at endpoints; give its hf: judges the option "
                "engine=hf"
            )

    @property
    def fingerprint(self) -> str:
        return digest([f"{self.word} {self.version}", [member.fingerprint for member in self.members]])

    def check(self) -> None:
        for member in self.members:
            member.check()

    def take_usage(self) -> Usage:
        return sum((member.take_usage() for member in self.members), Usage())

    def _ask(
        self,
        member: Judge,
        kind: JudgedKind,
        completions: Sequence[Completion],
        on_verdict: OnVerdict = ignore,
        *,
        silence: bool = False,
    ) -> list[Verdict]:
        """With a member behind an endpoint all go through the cache: neither a kill nor one that fails costs a vote.

        `silence` as in `judge_cached`.
        """
        if self.parallel:
            return member.judge(kind, completions, on_verdict)
        return judge_cached(member, kind, completions, on_verdict, silence=silence)

    def _votes(self, verdicts: Sequence[Verdict]) -> list[Vote]:
        """The verdicts of the first members, in their order, as votes."""
        return [
            Vote(judge=member.name, label=said.label, score=said.score, unscored=said.unscored, raw=said.raw)
            for member, said in zip(self.members, verdicts, strict=False)
        ]
