"""Hashes that name what determines a result: bytes of models and data, versions of the libraries."""

import hashlib
import json
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from sails_eval.core.paths import PACKAGE


def digest(value: Any) -> str:
    """A short hash of any JSON-like value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def of_path(path: Path) -> str:
    """A short hash of a file's bytes, or of the names and bytes of everything in a folder."""
    path = path.resolve()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stamps = [(status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files)]
    return _of_files(path, tuple(files), tuple(stamps))


@cache
def of_code() -> str:
    """A short hash of this package's Python files."""
    return digest([of_path(file) for file in sorted(PACKAGE.rglob("*.py"))])


@lru_cache(maxsize=64)
def _of_files(path: Path, files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> str:
    """Models take long to read, so they are read once as long as their files' `stamps` stay the same."""
    total = hashlib.sha256()
    for file in files:
        total.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16]
