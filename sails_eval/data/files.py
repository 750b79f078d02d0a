"""Files of rows: JSONL, JSON, CSV, TSV, plain lines and Parquet, and where in them a row stands."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.files import check_no_pointer, json_object, parse_json, read_bytes

PACKED = 100
"""A gzip file that holds more than so many times its size, and more than `PACKED_BYTES`, is not unpacked."""

PACKED_BYTES = 100_000_000

GZIP = b"\x1f\x8b"


class Row(NamedTuple):
    """One row of a file, where it stands there, as an error message would put it, and what was changed about it."""

    where: str
    values: dict[str, Any]
    note: str = ""


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON (a list, or {"data": [...]}), CSV, TSV, text (each also .gz) or Parquet file.

    A text file has a prompt on each line, and the column `prompt`. Raises UserError naming the file and the line or row
    that cannot be read.
    """
    return list(parse(path, read_bytes(path)))


def read_text(path: Path) -> str:
    """A file's text, unpacked where it is packed. Raises UserError where it cannot be read, or is not UTF-8."""
    return _decode(path, read_bytes(path))


def parse(path: Path, content: bytes) -> Iterator[Row]:
    """The rows of a file's bytes; its name says of which kind they are. JSON and JSON lines may have each other's.

    Raises UserError as `read_rows` does.
    """
    check_no_pointer(path, content)
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
        if path.suffix == ".gz" or content.startswith(GZIP):
            content = _unpacked(path, content)
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not valid UTF-8; save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: not a complete gzip file ({error})") from error


def _unpacked(path: Path, content: bytes) -> bytes:
    most = max(PACKED_BYTES, PACKED * len(content))
    with gzip.open(io.BytesIO(content)) as file:
        unpacked = file.read(most + 1)
    if len(unpacked) > most:
        raise UserError(f"{path}: holds more than {PACKED} times its size; unpack it first (gunzip) and give that file")
    return unpacked


def _parse_jsonl(path: Path, text: str) -> Iterator[Row]:
    if text.lstrip().startswith("["):
        yield from _parse_json(path, text)
        return
    # Not splitlines(), which also splits at separators that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield json_row(f"{path}:{number}", parse_json(f"{path}:{number}", line))


def _parse_json(path: Path, text: str) -> Iterator[Row]:
    try:
        items = parse_json(str(path), text)
    except UserError:
        if not _begins_with_object(text):
            raise
        yield from _parse_jsonl(path, text)
        return
    if isinstance(items, dict):
        items = items.get("data")
    if not isinstance(items, list):
        raise UserError(f'{path}: expected a list or {{"data": [...]}}; a file with one object per line must be .jsonl')
    for number, item in enumerate(items, start=1):
        yield json_row(f"{path}: row {number}", item)


def _begins_with_object(text: str) -> bool:
    """Whether the first line is a JSON object by itself."""
    try:
        return isinstance(json.loads(text.lstrip().partition("\n")[0]), dict)
    except (ValueError, RecursionError):
        return False


def json_row(where: str, item: object) -> Row:
    """A row of what JSON holds: that may be half of a surrogate pair, which is no character and becomes U+FFFD."""
    values = _present(json_object(where, item))
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(error.object[error.start]):04X}"
        return Row(where, _whole(values), f"{half}, half of a surrogate pair, was replaced by U+FFFD")
    return Row(where, values)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """The same values; NaN, which pandas writes for a missing text, is None."""
    return {key: None if isinstance(value, float) and value != value else value for key, value in values.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return {_whole(key): _whole(item) for key, item in value.items()} if isinstance(value, dict) else value


def _parse_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Row(f"{path}:{number}", {"prompt": line.strip()})


def _parse_csv(path: Path, text: str, *, delimiter: str = ",") -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may hold a whole book
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    number, first = 0, text.partition("\n")[0]
    if delimiter not in first and (other := next((mark for mark in ",;\t|" if mark in first), None)):
        rename = ", or name it .tsv" if other == "\t" else ""
        raise UserError(f"{path}: columns are separated by {other!r}, not by {delimiter!r}; save it with these{rename}")
    try:
        header = list(reader.fieldnames or ())
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"{path}: two columns are named {twice[0]!r:.60}; rename one")
        for number, values in enumerate(reader, start=1):
            if None in values or None in values.values():
                raise UserError(
                    f"{path}: row {number}: number of fields differs from the header; quote fields that contain commas"
                )
            yield Row(f"{path}: row {number}", values)
    except csv.Error as error:
        raise UserError(f"{path}: row {number + 1}: not valid CSV ({error})") from error


def _parse_parquet(path: Path, content: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # in this thread: those that `read_table` starts may still run when Python ends, which then aborts
        table = pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)
        named = [name for name in table.column_names if not name.startswith("__index_level_")]  # pandas' own
        for batch in table.select(named).to_batches():
            columns = [_column(batch.column(name)) for name in named]
            for values in zip(*columns, strict=True):
                number += 1
                yield Row(f"{path}: row {number}", _present(dict(zip(named, values, strict=True))))
    except (pa.ArrowException, LookupError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file that can be read ({first_line(error)})") from error


def _column(array: Any) -> list[Any]:
    """Values of Parquet as Python has them; bytes where it has none, as nobody may read that column."""
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError):
        return [b""] * len(array)
