"""Files of rows: JSONL, JSON, CSV, TSV, plain lines and Parquet, and where in them a row stands."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sails_eval.core.errors import UserError
from sails_eval.core.files import json_object, parse_json


class Row(NamedTuple):
    """One row of a file, and where it stands there, as an error message would put it."""

    where: str
    values: dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON (a list, or {"data": [...]}), CSV, TSV, text (each also .gz) or Parquet file.

    A text file has a prompt on each line, and the column `prompt`. Raises UserError naming the file and the line or row
    that cannot be read.
    """
    return list(parse(path, read_bytes(path)))


def read_bytes(path: Path) -> bytes:
    """A file's bytes. Raises UserError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def parse(path: Path, content: bytes) -> Iterator[Row]:
    """The rows of a file's bytes; its name says of which kind they are. Raises UserError as `read_rows` does."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix == ".parquet":
        return _parse_parquet(path, content)
    parsers: dict[str, Callable[[Path, str], Iterator[Row]]] = {
        ".jsonl": _parse_jsonl,
        ".json": _parse_json,
        ".csv": _parse_csv,
        ".tsv": partial(_parse_csv, delimiter="\t"),
        ".txt": _parse_lines,
    }
    if suffix not in parsers:
        raise UserError(
            f"{path}: unknown file type; expected .jsonl, .json, .csv, .tsv, .txt (each also .gz) or .parquet"
        )
    return parsers[suffix](path, _decode(path, content))


def _decode(path: Path, content: bytes) -> str:
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error})") from error


def _parse_jsonl(path: Path, text: str) -> Iterator[Row]:
    # Not splitlines(), which also splits at separators that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield Row(where, json_object(where, parse_json(where, line)))


def _parse_json(path: Path, text: str) -> Iterator[Row]:
    items = parse_json(str(path), text)
    if isinstance(items, dict):
        items = items.get("data")
    if not isinstance(items, list):
        raise UserError(f'{path}: expected a list or {{"data": [...]}}; a file with one object per line must be .jsonl')
    for number, item in enumerate(items, start=1):
        yield Row(f"{path}: row {number}", json_object(f"{path}: row {number}", item))


def _parse_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", {"prompt": line.strip()})


def _parse_csv(path: Path, text: str, *, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may hold a whole book
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    number = 0
    try:
        header = list(reader.fieldnames or ())
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"{path}: two columns are named '{twice[0]}'; rename one")
        for number, values in enumerate(reader, start=1):
            if None in values or None in values.values():
                raise UserError(
                    f"{path}: row {number}: number of fields differs from the header; quote fields that contain commas"
                )
            yield Row(f"{path}: row {number}", values)
    except csv.Error as error:
        raise UserError(f"{path}: row {number + 1}: not valid CSV ({error})") from error


def _parse_parquet(path: Path, content: bytes) -> Iterator[Row]:
    import pandas as pd

    try:
        table = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error
    # By way of JSON, which turns arrays and missing values into plain lists and None.
    for number, item in enumerate(json.loads(table.to_json(orient="records")), start=1):
        yield Row(f"{path}: row {number}", item)
