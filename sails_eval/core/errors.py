"""Errors that a user can mend: one clear line, no traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The message names the file, the key and the fix; the CLI prints it and exits with status 2."""


class CellFailed(UserError):  # noqa: N818 - the name of what happened
    """A cell that cannot be trained, answered or judged; the others go on."""


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; where the first only announces what follows, with the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])


class UnknownNameError(UserError):
    """A name that is not among the known ones, most often misspelt."""


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among `known`, with the nearest ones or, failing that, all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return UnknownNameError(f"unknown {what} '{name}'; {hint}")
