"""Errors that a user can mend: one clear line, no traceback."""

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from sails_eval.core.escape import visible

RESUME = "then give the same command again to resume"

FIXES = {
    errno.ENOSPC: f"free some space there, {RESUME}",
    errno.EDQUOT: f"free some space there, {RESUME}",
    errno.EROFS: "make it writable, or give another place",
    errno.EACCES: "make it accessible, or give another place",
    errno.EPERM: "make it accessible, or give another place",
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "a part of this path is a file; give the path of a folder",
    errno.EEXIST: "it is a file; give the path of a folder",
    errno.EISDIR: "it is a folder; give the path of a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links lead to each other; give another path",
    errno.EMFILE: f"raise the limit of open files (ulimit -n), {RESUME}",
    errno.ENFILE: f"raise the limit of open files (ulimit -n), {RESUME}",
    errno.EIO: f"see that the disk is in order, {RESUME}",
}
"""What helps against an error of the system."""

MEMORY = (
    "out of memory; give fewer --jobs, a lower --micro-batch-size or --eval-batch-size, or end other programs, "
    f"{RESUME}"
)


class UserError(Exception):
    """Bad input. The message names the file, the key and the fix; the CLI prints it and exits with status 2.

    What it quotes cannot steer a terminal, or break a line.
    """

    def __init__(self, told: str) -> None:
        super().__init__(visible(told))


class CellFailed(UserError):  # noqa: N818
    """A cell that cannot be trained, answered or judged; the others go on."""


class SystemRefusalError(UserError):
    """What the system does not do: write on a full disk, read what is not there."""


def explained(error: BaseException, path: Path | None = None) -> UserError | None:
    """An error of the system or of memory as a line with a fix; None where it is neither.

    It is about `path` unless it names a file itself.
    """
    if isinstance(error, UserError):
        return error
    if out_of_memory(error):
        return UserError(MEMORY)
    number, where, told = None, path, first_line(error)
    if isinstance(error, RuntimeError) and (loop := re.match(r"Symlink loop from '(.+)'", told)):  # of Path.resolve
        error = OSError(errno.ELOOP, os.strerror(errno.ELOOP), loop.group(1))
    if isinstance(error, OSError):
        number, told = error.errno, error.strerror or told
        where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else path
    elif rust := re.search(r"\(os error (\d+)\)", str(error)):
        number = int(rust.group(1))
        told = os.strerror(number)
    else:
        return None
    own = number is not None and told == os.strerror(number)  # those of sockets and of SSL are numbered otherwise
    told = f"{told[0].lower()}{told[1:]}" if where or own else told
    fix = FIXES.get(number or 0, "") if own else ""
    return SystemRefusalError((f"{where}: " if where else "") + told + (f"; {fix}" if fix else ""))


def out_of_memory(error: BaseException) -> bool:
    """Whether memory did not suffice: of the machine or of the GPU, by whatever library that is told."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    words = r"out of memory|can't allocate memory|cannot allocate memory|not enough memory"
    return isinstance(error, RuntimeError) and re.search(words, str(error), re.IGNORECASE) is not None


def first_line(error: BaseException) -> str:
    """What a library's error says, in one line; where the first only announces what follows, with the next."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 1 + lines[0].endswith(":")])


def reason(error: BaseException) -> str:
    """Why something failed, in one clause: a semicolon would end it."""
    if out_of_memory(error):
        return "out of memory (fewer --jobs or a lower --micro-batch-size takes less)"
    known = explained(error)
    told = first_line(known) if known else f"{type(error).__name__}: {first_line(error)}"
    return told.replace(";", ",")


LONGEST_REASON = 500
"""The most characters that are repeated of what a library says; some list all that they know."""


@contextmanager
def as_user_error(what: str, fix: str) -> Iterator[None]:
    """Whatever a library raises in the block, over files that people give it, is a UserError of one line.

    `what` names the file, folder or key and what cannot be done with it, `fix` is the next step. What is one already
    stays as it is, and so does a lack of memory, which `explained` tells.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if out_of_memory(error):
            raise
        told = first_line(error)
        if isinstance(error, (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError)):
            told = f"{type(error).__name__}: {told}"  # their words alone say little
        if isinstance(error, OSError) and error.filename:
            where = os.fsdecode(error.filename)
            told = f"{error.strerror}" if where in what else f"{where}: {error.strerror}"
        raise UserError(f"{what}: {told[:LONGEST_REASON]}; {fix}") from error


class UnknownNameError(UserError):
    """A name that is not among the known ones, most often misspelt."""


def unknown(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error for a name that is not among `known`, with the nearest ones or, failing that, all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    return UnknownNameError(f"unknown {what} '{name}'; {hint}")
