"""Files that say whether they are as they were written: hashes beside them, in the form of `sha256sum --check`.

Those of a file are in `.NAME.sha256` beside it, those of a folder's files in `.sha256` inside it. What has none, as
everything that was written before 0.3.0, is taken as it is.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from sails_eval.core.errors import UserError
from sails_eval.core.files import sync, write_bytes, write_text

ENDING = ".sha256"

FIX = "restore it, or delete it and give the command again"
"""What to do about a file that is not as it was written."""

KEEP = "restore it, or give another --out"
"""The same of a file that no later command makes again."""

LARGE = 2**26
"""Bytes from which on a file is read once only, as long as it looks the same."""


def listing(path: Path) -> Path:
    """Where the hashes of a file, or of the files in a folder, are kept."""
    return path / ENDING if path.is_dir() else path.with_name(f".{path.name}{ENDING}")


def write_checked(path: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write a file with its hash beside it, each by rename.

    The hash comes first, with that of the file that is there: whichever of the two a kill leaves, it is a known one.
    """
    content = content.encode("utf-8") if isinstance(content, str) else content
    lines, noted = [_line(hashlib.sha256(content).hexdigest(), path.name)], listing(path)
    if path.exists() and noted.is_file():
        there = _line(_sha256(path), path.name)
        lines += [line for line in _lines(noted) if line == there != lines[0]]
    write_text(noted, f"# {_size(content)}\n" + "".join(lines), private=private)
    write_bytes(path, content, private=private)


def note(path: Path) -> None:
    """Take a file or a folder as it is for what was written."""
    if path.is_dir():
        note_folder(path)
    else:
        write_text(listing(path), f"# {_size(path.read_bytes())}\n{_line(_sha256(path), path.name)}", private=True)


def note_folder(folder: Path) -> None:
    """Write down the hashes of all files in a folder, once they are on the disk."""
    files = sorted(_files(folder))
    for file in files:
        sync(file)
    lines = [_line(_sha256(file), file.relative_to(folder).as_posix()) for file in files]
    write_text(folder / ENDING, f"# {len(files)} files\n" + "".join(lines))


def fault(path: Path) -> str | None:
    """How a file, or a folder's files, differ from what was written; None where they do not, or nothing is known."""
    noted = listing(path)
    if not (path.exists() and noted.is_file()):
        return None
    known: dict[str, list[str]] = {}
    for line in _lines(noted):
        known.setdefault(line[66:-1], []).append(line[:64])
    if path.is_dir():
        found = {file.relative_to(path).as_posix(): file for file in _files(path)}
        strange = [f"{name} is missing" for name in known if name not in found]
        strange += [f"{name} was added" for name in found if name not in known]
        strange += [f"{name} was changed" for name, file in found.items() if _sha256(file) not in known.get(name, ())]
        return strange[0] if strange else None if known else f"{noted.name} is empty"
    if _sha256(path) in known.get(path.name, ()):
        return None
    then = _text(noted).partition("\n")[0].removeprefix("# ")
    return f"now {_size(path.read_bytes())}, written were {then or 'others'}"


def check(path: Path, fix: str = FIX) -> None:
    """Raises UserError, with the file's name and how to fix it, where it is not as it was written."""
    if told := fault(path):
        raise UserError(f"{path}: changed or damaged since it was written ({told}); {fix}")


def noted(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder whose hashes are known."""
    for path in sorted(folder.rglob(f"*{ENDING}")):
        if path.name.startswith("."):
            yield path.parent if path.name == ENDING else path.with_name(path.name[1 : -len(ENDING)])


def _files(folder: Path) -> Iterator[Path]:
    """What counts in a folder: hidden files are the system's, or ours."""
    return (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))


def _line(sha256: str, name: str) -> str:
    return f"{sha256}  {name}\n"


def _lines(path: Path) -> list[str]:
    """The lines that are such; a damaged one is none."""
    return [line for line in _text(path).splitlines(keepends=True) if re.fullmatch(r"[0-9a-f]{64}  .+\n", line)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _size(content: bytes) -> str:
    lines = content.count(b"\n")
    return f"{len(content)} bytes, {lines} lines"


def _sha256(path: Path) -> str:
    status = path.stat()
    stamp = status.st_size, status.st_mtime_ns
    return _remembered(path, stamp) if status.st_size > LARGE else _read(path)


@lru_cache(maxsize=256)
def _remembered(path: Path, stamp: tuple[int, int]) -> str:
    return _read(path)


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
