"""What packages of the user's own offer: methods, judges, engines and analyses, found through Python entry points.

A package says in its pyproject.toml, for each kind, a name and the class or function behind it:

    [project.entry-points."sails_eval.judges"]
    my_judge = "my_package.judge:MyJudge"
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from sails_eval.core.errors import UserError, first_line

Group = Literal["methods", "judges", "engines", "analyses"]


def plugins(group: Group) -> dict[str, EntryPoint]:
    """The entry points of a group by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=f"sails_eval.{group}")}


def load_plugin(point: EntryPoint) -> Any:
    """What an entry point names. Raises UserError where it cannot be imported, or two packages have one name."""
    if len(offers := sorted({one.value for one in entry_points(group=point.group, name=point.name)})) > 1:
        raise UserError(
            f"two packages offer '{point.name}' as {point.group}: {' and '.join(offers)}; uninstall one of them"
        )
    with faults_told(f"{point.group}: '{point.name}' cannot be imported"):
        return point.load()


@contextmanager
def faults_told(where: str) -> Iterator[None]:
    """Whatever the code of others raises becomes a UserError, which says where."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: {type(error).__name__}: {first_line(error)}") from error
