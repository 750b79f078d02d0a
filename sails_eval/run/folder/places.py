"""Files and folders that have the same name in every folder of their kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sails_eval.core.errors import UserError
from sails_eval.core.schema import Record, check_name

Kept = TypeVar("Kept", bound=Record)


class Folder(Protocol):
    """What has a path."""

    @property
    def path(self) -> Path: ...


def inside(folder: Path, *names: str) -> Path:
    """The folder or file of these names below a folder.

    Raises UserError where a name is no plain one, or a link leads out of the folder: a run neither writes nor deletes
    elsewhere.
    """
    path = folder
    for name in names:
        try:
            path /= check_name(name)
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error
        _stays(path, folder)
    return path


def below(folder: Path, pattern: str) -> list[Path]:
    """What there is below a folder, in order. Raises UserError as `inside` does where a link leads out of it to that.

    Files may be links: they are never written into.
    """
    paths = sorted(folder.glob(pattern))
    for path in paths:
        parts = (path if path.is_dir() else path.parent).relative_to(folder).parts
        for end in range(len(parts)):
            _stays(folder.joinpath(*parts[: end + 1]), folder)
    return paths


def ending(path: Path, suffix: str) -> Path:
    """A path with something added to its name, which may have points of its own."""
    return path.with_name(path.name + suffix)


def own(path: Path) -> Path:
    """The path of a file that is written in place. Raises UserError where it is a link out of its folder."""
    _stays(path, path.parent)
    return path


def _stays(path: Path, folder: Path) -> None:
    if path.is_symlink() and not (target := path.resolve()).is_relative_to(folder.resolve()):
        raise UserError(
            f"{path}: a link out of the run folder, to {target}; a run writes inside its folder only: replace the link "
            "with the folder itself (the run folder as a whole may be a link)"
        )


class Place:
    """A file or folder that has the same name in every folder of its kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Folder, kind: type[Folder] | None = None) -> Path:
        return folder.path / self.name


class FolderPlace(Place):
    """A folder with what is written into it: a link out of the folder that it is in is refused."""

    def __get__(self, folder: Folder, kind: type[Folder] | None = None) -> Path:
        return inside(folder.path, self.name)


@dataclass(frozen=True)
class RecordFile(Generic[Kept]):
    """A record's file; a call reads it. Raises UserError then where it is not there or holds something else."""

    path: Path
    kind: type[Kept]

    def __call__(self) -> Kept:
        return self.kind.read(self.path)

    @property
    def exists(self) -> bool:
        return self.path.is_file()


@dataclass(frozen=True)
class RecordPlace(Generic[Kept]):
    """As `Place`, of a record."""

    name: str
    kind: type[Kept]

    def __get__(self, folder: Folder, kind: type[Folder] | None = None) -> RecordFile[Kept]:
        return RecordFile(folder.path / self.name, self.kind)
