"""Files and folders that have the same name in every folder of their kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sails_eval.core.schema import Record

Kept = TypeVar("Kept", bound=Record)


class Folder(Protocol):
    """What has a path."""

    @property
    def path(self) -> Path: ...


class Place:
    """A file or folder that has the same name in every folder of its kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: Folder, kind: type[Folder] | None = None) -> Path:
        return folder.path / self.name


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
