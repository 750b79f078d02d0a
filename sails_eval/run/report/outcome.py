"""What the stages of a comparison came to."""

from collections import Counter
from dataclasses import dataclass, field

from sails_eval.boards.facts import RowFacts
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.records import Result
from sails_eval.plan.plan import EvaluationPlan
from sails_eval.tasks.library import TaskInfo


@dataclass(frozen=True)
class Outcome:
    """What a comparison of one pair, or an evaluation, came to.

    `warnings` are for whoever reads the leaderboard: by method, each a clause without a semicolon. `agreement` counts
    the answers that the reference judge sees alike and those that it does not; `members` says how a panel's or a
    cascade's came to one verdict. `failed` names the rows that have no score, with the reason; `facts` and `warnings`
    have them, too.
    """

    plan: EvaluationPlan
    results: list[Result]
    facts: dict[str, RowFacts]
    choices: dict[str, Choice] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)
    agreement: Counter[bool] = field(default_factory=Counter)
    members: str = ""
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def untrained(self) -> tuple[str, ...]:
        """The rows that nothing was trained for."""
        return tuple(name for name, fact in self.facts.items() if not fact.seeds)

    @property
    def all_choices(self) -> dict[str, Choice]:
        """The choices, with those of the rows that have none."""
        return {name: Choice(name, None) for name in self.untrained} | self.choices

    @property
    def tasks(self) -> dict[str, TaskInfo]:
        return self.plan.named_tasks
