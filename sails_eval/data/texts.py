"""Running texts: paragraphs of a text file, or rows with a field `text`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from sails_eval.core.data_source import HUB, Mixture, Selection
from sails_eval.core.errors import UserError
from sails_eval.data.files import Row, read_text
from sails_eval.data.reading import open_rows, pinned

PLAIN = (".txt", ".md")
"""Endings of files whose paragraphs, separated by blank lines, are texts."""


@dataclass(frozen=True)
class Texts:
    """Running texts, and the hash as in `DataFile`."""

    texts: tuple[str, ...]
    sha256: str


def read_texts(data: Path | Selection, most: int) -> Texts:
    """Read running texts, the first `most`, from sources as `read_examples` does: rows of a field `text`.

    Raises UserError naming file, line or row of what has no text, and where there is none at all.
    """
    rows, sha256 = open_rows(pinned(data))
    texts = tuple(map(_text, islice(rows, most)))
    if not texts:
        raise UserError(f"{data}: no rows; expected rows with a field 'text'")
    return Texts(texts, sha256)


def running_texts(data: Path | Selection | Mixture) -> Iterator[str] | None:
    """The running texts of a source, one at a time; None where its rows are something else, such as dialogues.

    Raises UserError as `read_texts` does.
    """
    if isinstance(data, Mixture):
        return None
    file = data if isinstance(data, Path) else Path(data.data)
    if file.suffix in PLAIN and not str(file).startswith(HUB):
        return iter(paragraphs(file))
    rows, _ = open_rows(pinned(data))
    first = next(rows, None)
    if first is None or "text" not in first.values:
        return None
    return map(_text, chain([first], rows))


def paragraphs(file: Path) -> list[str]:
    """A file's paragraphs. Raises UserError where it cannot be read or has none."""
    texts = [part for part in re.split(r"\r?\n\s*\n", read_text(file)) if part.strip()]
    if not texts:
        raise UserError(f"{file}: no text in it; give a text file with paragraphs separated by blank lines")
    return texts


def _text(row: Row) -> str:
    text = row.values.get("text")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{row.where}: field 'text' is missing or empty")
    return text
