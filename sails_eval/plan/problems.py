"""What stands in a comparison's way: gathered while it is planned, and told all at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from sails_eval.core.errors import UnknownNameError, UserError

Given = ParamSpec("Given")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong or missing; one that `stops` a run, or that only makes it slow."""

    told: str
    stops: bool = True
    misspelt: bool = False


def if_it_can(resolve: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found | None:
    """What `resolve` gives; None where it raises a UserError, which is told elsewhere."""
    try:
        return resolve(*given, **named)
    except UserError:
        return None


class Problems(list[Problem]):
    """All of them, in the order in which they were met."""

    def attempt(self, resolve: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found | None:
        """What `resolve` gives; None where it raises a UserError, whose lines are kept."""
        try:
            return resolve(*given, **named)
        except UserError as error:
            misspelt = isinstance(error, UnknownNameError)
            self += (Problem(line, misspelt=misspelt) for line in str(error).splitlines())
            return None

    def ask(self, resolve: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found | None:
        """The same of what a run can do without, so that no UserError stops it."""
        lacks = Problems()
        found = lacks.attempt(resolve, *given, **named)
        self += (Problem(one.told, stops=False) for one in lacks)
        return found

    @property
    def different(self) -> tuple[Problem, ...]:
        """Each once, though several looks may have met it."""
        return tuple(dict.fromkeys(self))

    @property
    def stopping(self) -> list[str]:
        """Those that stop a run, each once."""
        return [problem.told for problem in self.different if problem.stops]

    def check(self) -> None:
        """Raises UserError with a line for every problem that stops a run."""
        if told := self.stopping:
            raise UserError("\n".join(told))
