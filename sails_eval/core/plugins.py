"""What packages of the user's own offer: methods, judges, engines and analyses, found through Python entry points.

A package says in its pyproject.toml, for each kind, a name and the class or function behind it:

    [project.entry-points."sails_eval.judges"]
    my_judge = "my_package.judge:MyJudge"
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from sails_eval.core.errors import UserError, first_line

Group = Literal["methods", "judges", "engines", "analyses"]


def plugins(group: Group) -> dict[str, EntryPoint]:
    """The entry points of a group by name; nothing is imported. Raises UserError where two packages have one name."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"sails_eval.{group}"):
        if (other := found.setdefault(point.name, point)).value != point.value:
            raise UserError(f"two packages offer '{point.name}' as sails_eval.{group}: {other.value} and {point.value}")
    return found


def load_plugin(point: EntryPoint) -> Any:
    """What an entry point names. Raises UserError where it cannot be imported."""
    try:
        return point.load()
    except Exception as error:  # whatever the code of others raises
        raise UserError(f"{point.group}: '{point.name}' cannot be imported: {first_line(error)}") from error
