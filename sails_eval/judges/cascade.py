"""Cascades: judges of whom each is asked only about what all before it left unscored."""

from collections.abc import Mapping, Sequence
from functools import partial

from sails_eval.core.records import Completion, Verdict, Vote
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore, is_transient
from sails_eval.judges.several import Several


class Cascade(Several):
    """The judges `cascade:a,b,c` as one: the first of them that has a verdict on an answer decides, alone.

    What a member leaves unscored is the next one's, except where it could not be heard: who decides must not depend on
    an endpoint's bad hour, so the answer stays unscored until that member is asked again. `votes` has those that were
    asked, the last of whom decided.
    """

    word, version = "cascade", 1

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        """Each member reads all that is left for it before the next one begins."""
        said: dict[str, list[Verdict]] = {completion.id: [] for completion in completions}
        left = completions
        for member in self.members:
            if not left:
                break
            hear = partial(self._hear, member, said, on_verdict)
            for verdict in self._ask(member, kind, left, hear, silence=member is not self.members[-1]):
                said[verdict.id].append(verdict)
            left = [completion for completion in left if _is_left(said[completion.id][-1])]
        return [self._decide(said[completion.id]) for completion in completions]

    def _hear(
        self, member: Judge, said: Mapping[str, Sequence[Verdict]], on_verdict: OnVerdict, verdict: Verdict
    ) -> None:
        """Pass on what a member says, where nobody is asked after it."""
        if member is self.members[-1] or not _is_left(verdict):
            on_verdict(self._decide([*said[verdict.id], verdict]))

    def _decide(self, verdicts: Sequence[Verdict]) -> Verdict:
        """What the verdicts on one completion of all members that were asked, in their order, come to."""
        last = verdicts[-1]
        return Verdict(last.id, last.label, last.score, last.unscored, votes=self._votes(verdicts))

    def among_members(self, judged: Mapping[JudgedKind, Sequence[Verdict]]) -> str:
        """How many answers each member was asked about, and how many of these it decided."""
        told = []
        for kind, verdicts in judged.items():
            if votes := [verdict.votes for verdict in verdicts if verdict.votes]:
                told += self._shares(votes, f"{len(votes):,} answers to {kind} requests")
        return ", ".join(told)

    def _shares(self, votes: Sequence[Sequence[Vote]], answers: str) -> list[str]:
        """A clause for each member."""
        told = []
        for place, member in enumerate(self.members):
            own = [of_one[place] for of_one in votes if len(of_one) > place]
            decided = f"{sum(vote['unscored'] is None for vote in own):,}"
            asked = f"was asked about {len(own):,} and decided {decided}" if own else "was not asked"
            told.append(f"{member.name} {asked if place else f'decided {decided} of {answers}'}")
        return told


def _is_left(verdict: Verdict) -> bool:
    """Whether a member has left an answer to the next."""
    return verdict.unscored is not None and not is_transient(verdict)
