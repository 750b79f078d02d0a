"""Reading and writing files: JSONL, CSV that no spreadsheet runs, and every file by rename."""

import csv
import io
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import MISSING, asdict, astuple, fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from filelock import FileLock, Timeout

from sails_eval.core.errors import UserError, explained
from sails_eval.core.escape import neutralise, restore

Line = TypeVar("Line")


POINTER = b"version https://git-lfs"
"""What a file begins with that git-lfs left in place of the real one."""


def check_no_pointer(path: Path, content: bytes) -> None:
    """Raises UserError for a file with this beginning that git-lfs left in place of the real one."""
    if content.startswith(POINTER):
        raise UserError(f"{path}: a pointer of git-lfs, not the file itself; fetch it: git lfs pull")


def read_bytes(path: Path, *, missing: str = "cannot be read", fix: str = "") -> bytes:
    """A file's bytes.

    Raises UserError where it is `missing`, with the `fix` for that, or is a device or a pipe, which may have no end.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path}: a device or a pipe; write what it gives to a file, and give that")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {missing} ({error.strerror}){fix}") from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSONL file. Raises UserError naming the line that is not a JSON object."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield json_object(f"{path}:{number}", parse_json(f"{path}:{number}", line))


def parse_json(where: str, text: str | bytes, what: str = "valid JSON") -> Any:
    """What a text holds. Raises UserError that names where it stands, and that it is not `what`."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{where}: not {what} (nested too deeply)") from error
    except ValueError as error:
        told = re.sub(r": (line \d+ column \d+) \(char \d+\)$", r", \1", str(error).partition("; use sys.")[0])
        raise UserError(f"{where}: not {what} ({told})") from error


def json_object(where: str, value: object) -> dict[str, Any]:
    """The value, which has to be an object. Raises UserError that names where it stands."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value


def write_bytes(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file by rename, so that a kill or a power cut leaves the old one or the new one, never half of it."""
    partial, mode = path.with_name(f".{path.name}.{os.getpid()}.partial"), 0o600 if private else 0o644
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        try:
            # "x" follows no link that somebody laid there
            with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    sync(path.parent)


def sync(path: Path) -> None:
    """See that a file's bytes, or a folder's names, are on the disk, where the system can tell."""
    with suppress(OSError):  # Windows opens no folders, and some file systems sync none
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder whose content is on the disk, and its new name is there, too."""
    source.rename(target)
    sync(target.parent)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there; of a link only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system in the block, on a full disk and the like, are UserErrors about `path`."""
    try:
        yield
    except Exception as error:
        if (known := explained(error, path)) is None:
            raise
        raise known from error


@contextmanager
def locked(folder: Path, lock: Path) -> Iterator[None]:
    """No other process is at work in the folder, whose lock file this is, inside the block. Raises UserError where one
    is."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(lock, timeout=0))
        except Timeout as error:
            raise UserError(
                f"{folder}: in use by another sails-eval process; wait for it to end, or give another --out"
            ) from error
        yield


def check_folder(path: Path, flag: str = "--out") -> None:
    """Raises UserError where a folder cannot be made there, or written to."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise UserError(f"{flag} {path}: {there} is a file, not a folder; give another {flag}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {path}: {there} cannot be written to; make it writable, or give another {flag}")


def check_file(path: Path, flag: str = "--out") -> None:
    """Raises UserError where a file cannot be written there."""
    if path.is_dir():
        raise UserError(f"{flag} {path}: it is a folder; give the path of a file")
    check_folder(path.parent, flag)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Write a text file in UTF-8, by rename."""
    write_bytes(path, text.encode("utf-8"), private=private)


def read_json(
    path: Path, *, what: str = "valid JSON", missing: str = "cannot be read", fix: str = ""
) -> dict[str, Any]:
    """The object in a JSON file.

    Raises UserError naming the file: that it is not `what`, or that it is `missing`, with the `fix` for that.
    """
    content = read_bytes(path, missing=missing, fix=fix)
    return json_object(str(path), parse_json(str(path), content, what))


def write_json(path: Path, value: Any, *, sort_keys: bool = False, ensure_ascii: bool = True) -> None:
    """Write a JSON file, by rename."""
    write_text(path, json.dumps(value, indent=1, sort_keys=sort_keys, ensure_ascii=ensure_ascii) + "\n")


def jsonl_text(rows: Iterable[Any]) -> str:
    """Dataclasses or mappings as JSONL."""
    dicts = (row if isinstance(row, dict) else asdict(row) for row in rows)
    return "".join(_json(row) + "\n" for row in dicts)


def write_jsonl(path: Path, rows: Iterable[Any], *, private: bool = False) -> None:
    """Write dataclasses or mappings as JSONL, by rename."""
    write_text(path, jsonl_text(rows), private=private)


def _json(row: dict[str, Any]) -> str:
    """JSON with its letters as they are, unless one is half of a surrogate pair: JSON can hold that, UTF-8 cannot."""
    text = json.dumps(row, ensure_ascii=False)
    return json.dumps(row) if re.search("[\ud800-\udfff]", text) else text


def rate_text(rate: float | None) -> str:
    """A learning rate as its shortest exact decimal: `0.001`, `3e-05`; empty for None and NaN."""
    return "" if rate is None or math.isnan(rate) else repr(float(rate))


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV text of a table, the same for the same values.

    Learning rates (the column of that name) are written as Python's shortest exact decimal, other floats to
    six decimals, None and NaN as empty cells; text is neutralised against formulas. Lines end in \\n.
    """
    lines = [_line(columns)]
    lines += [_line([_cell(*item) for item in zip(columns, row, strict=True)]) for row in rows]
    return "".join(lines)


def _line(cells: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)  # with \r\n at its end, because only then it quotes a \r in a cell
    return buffer.getvalue().removesuffix("\r\n") + "\n"


def _cell(column: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if column == "learning_rate":
            return rate_text(value)
        return "" if math.isnan(value) else f"{round(value, 6) + 0.0:.6f}"  # + 0.0 turns -0.0 into 0.0
    return neutralise(str(value)) if isinstance(value, str) else str(value)


def table_text(kind: type[Any], rows: Iterable[Any]) -> str:
    """Dataclasses of a kind as CSV; the columns are its fields."""
    return csv_text([field.name for field in fields(kind)], map(astuple, rows))


def read_table(path: Path, kind: type[Line]) -> list[Line]:
    """The rows of a CSV as `table_text` makes it, now or before its last fields with defaults were added.

    Raises UserError where it is none, naming the line.
    """
    columns = get_type_hints(kind)
    header, lines = read_csv(path)
    of_kind: Any = kind
    required = [field.name for field in fields(of_kind) if field.default is MISSING]
    if header != list(columns)[: len(header)] or len(header) < len(required):
        raise UserError(f"{path}:1: expected the columns {', '.join(columns)}")
    rows = []
    for number, cells in lines:
        try:
            rows.append(kind(*(_value(cell, *column) for cell, column in zip(cells, columns.items(), strict=False))))
        except ValueError as error:
            raise UserError(f"{path}:{number}: {error}") from error
    return rows


def _value(cell: str, column: str, kind: Any) -> Any:
    """What a cell holds, by the type of its field. Raises ValueError where that does not fit."""
    known = get_args(kind)
    if get_origin(kind) is Literal:
        if cell not in known:
            raise ValueError(f"'{cell}' is not a {column} ({' or '.join(known)})")
        return cell
    if kind is str:
        return restore(cell)
    if not cell and kind is float:
        return math.nan
    if not cell and NoneType in known:
        return None
    return int(cell) if int in (kind, *known) else float(cell)


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """A CSV's header and its rows of raw cells, each with its line number.

    Raises UserError if the file is missing, empty, not UTF-8, or has a row of another length than its header.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, cells) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a valid CSV file in UTF-8 ({error})") from error
    if not lines:
        raise UserError(f"{path}: empty; expected a header and rows")
    (_, header), *rows = lines
    for number, cells in rows:
        if len(cells) != len(header):
            raise UserError(f"{path}:{number}: {len(cells)} cells, but the header has {len(header)} columns")
    return header, rows
