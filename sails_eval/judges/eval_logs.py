"""Logs of other harnesses as rows with `id`, `prompt` and `response`: lm_eval's samples, and Inspect's logs.

Formats: `lm_eval --log_samples` writes `samples_TASK_DATE.jsonl` (lm-evaluation-harness 0.4), Inspect a JSON file or a
zip of JSON, `.eval` (inspect_ai 0.3). Both are recognised by what they hold.
"""

import json
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.files import json_object, parse_json, read_bytes
from sails_eval.data.files import PACKED, PACKED_BYTES, Row, json_row, read_rows

log = logging.getLogger(__name__)

LM_EVAL = {"doc_id", "doc", "arguments", "resps", "filtered_resps"}
INSPECT = {"eval", "samples"}
ZIP = b"PK\x03\x04"
ZSTANDARD = 93
"""The method by which Inspect packs; Python's `zipfile` knows it from 3.14 on."""

TEMPLATED = re.compile(r"<\|\w|\|>|\[/?INST\]|<(?:start|end)_of_turn>|<</?SYS>>|<[|｜](?:User|Assistant)[|｜]>")
"""Signs of a chat template in a prompt."""

ATTACHMENT = "attachment://"
CONVERT = "convert it with Inspect: inspect log convert --to json --output-dir DIR FILE"


def read_logged(path: Path, prompt: str) -> list[Row]:
    """The rows of a file; those of a known log have `id`, `prompt` and `response`, too, and a note on what these are.

    `prompt` is the column in which the caller looks for the request. Raises UserError as `read_rows` does, and where a
    log holds no answers, is in a form that cannot be read, or does not say which of its columns is the `prompt`.
    """
    if (samples := _inspect_samples(path)) is not None:
        return _of_inspect(path, samples)
    rows = read_rows(path)
    if not rows or not rows[0].values.keys() >= LM_EVAL:
        return rows
    found = _of_lm_eval(rows)
    if prompt == "prompt" and (unclear := next((row for row in found if "prompt" not in row.values), None)):
        names = _names(unclear.values["doc"], "doc")
        raise UserError(
            f"{unclear.where}: the prompt has a chat template, and no single column of 'doc' is the request; name it, "
            f"as in --prompt-column {names[0]} (found: {', '.join(names)})"
        )
    return found


# --- lm_eval ----------------------------------------------------------------------------------------------------------


def _of_lm_eval(rows: Sequence[Row]) -> list[Row]:
    """One row for each answer. A task with several filters has every answer once for each: the first one's count."""
    first = rows[0].values.get("filter")
    rows = [row for row in rows if row.values.get("filter") == first]
    column = request_column([row.values for row in rows])
    note, found = f"samples of lm_eval: requests are '{column or 'arguments'}', answers 'resps'", []
    for row in rows:
        resps = row.values["resps"]
        answers = resps[0] if isinstance(resps, list) and resps and isinstance(resps[0], list) else resps
        if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
            raise UserError(
                f"{row.where}: key 'resps' holds no generated text; give the samples of a task with output_type "
                "generate_until"
            )
        prompt = nested(row.values, column) if column else _request(row.values)
        told = {} if prompt is None else {"prompt": prompt}
        doc = row.values["doc_id"]
        for n, answer in enumerate(answers):
            id = doc if len(answers) == 1 else f"{doc}-{n}"
            found.append(Row(row.where, {**row.values, **told, "response": answer, "id": id}, note))
    return found


def request_column(samples: Sequence[Mapping[str, Any]]) -> str | None:
    """The column of lm_eval's documents that is the request, such as `doc.goal`; None where that is not clear.

    Its text stands in the prompt of every sample, and it is not the same text everywhere; of columns whose text is part
    of another one's, the longer one counts.
    """
    prompts = [_prompt(values) for values in samples]
    columns: dict[str, list[str]] = {}
    for name in _names(samples[0]["doc"], "doc"):
        texts = [nested(values, name) for values in samples]
        if all(isinstance(text, str) and text.strip() for text in texts):
            columns[name] = [text.strip() for text in texts]
    inside = {
        name: texts
        for name, texts in columns.items()
        if all(text in prompt for text, prompt in zip(texts, prompts, strict=True))
        and (len(texts) == 1 or len(set(texts)) > 1)
    }
    longest = [
        name
        for i, (name, texts) in enumerate(inside.items())
        if not any(
            _within(texts, others) and (texts != others or j < i)
            for j, (other, others) in enumerate(inside.items())
            if other != name
        )
    ]
    return longest[0] if len(longest) == 1 else None


def _within(texts: Sequence[str], others: Sequence[str]) -> bool:
    return all(text in other for text, other in zip(texts, others, strict=True))


def _prompt(values: Mapping[str, Any]) -> str:
    """The prompt of a sample's first request as the model got it; empty where there is none."""
    arguments = values["arguments"]
    for key in ("gen_args_0", "arg_0"):  # a list of lists in older files
        arguments = arguments.get(key) if isinstance(arguments, dict) else (arguments or [None])[0]
    text = arguments if isinstance(arguments, str) else ""
    return _user_text(turns) if (turns := _turns(text)) else text


def _request(values: Mapping[str, Any]) -> str | None:
    """The prompt as the request, unless a chat template surrounds it."""
    text = _prompt(values)
    return None if not text or TEMPLATED.search(text) else text


def _turns(text: str) -> list[Any]:
    """The messages of a chat, which lm_eval hands to an endpoint as JSON."""
    if not text.startswith('[{"role"'):
        return []
    try:
        return list(json.loads(text))
    except ValueError:
        return []


# --- Inspect ----------------------------------------------------------------------------------------------------------


def _inspect_samples(path: Path) -> list[Row] | None:
    """The samples of Inspect's log; None for any other file."""
    content = read_bytes(path)
    if content.startswith(ZIP):
        return list(_unzipped(path))
    if path.suffix != ".json" or not content.lstrip().startswith(b"{"):
        return None
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return None  # the reader of rows says what is wrong
    return _objects(path, whole["samples"]) if whole.keys() >= INSPECT else None


def _objects(path: Path, samples: Any) -> list[Row]:
    if not isinstance(samples, list):
        raise UserError(f"{path}: key 'samples' holds no list; give a log that is not only a header")
    return [json_row(f"{path}: sample {number}", one) for number, one in enumerate(samples, start=1)]


def _unzipped(path: Path) -> Iterator[Row]:
    try:
        with zipfile.ZipFile(path) as file:
            members = {one.filename: one for one in file.infolist() if one.filename.startswith("samples/")}
            if any(name.count("/") > 1 for name in members):
                raise UserError(f"{path}: holds samples in chunks, which are not read; {CONVERT}")
            if not members:
                raise UserError(f"{path}: a zip file without samples, so not a log of Inspect with answers")
            size = sum(one.file_size for one in members.values())
            if size > max(PACKED_BYTES, PACKED * path.stat().st_size):
                raise UserError(f"{path}: holds more than {PACKED} times its size; {CONVERT}")
            for name, member in members.items():
                where = f"{path}: {name}"
                yield json_row(where, parse_json(where, _content(path, file, member)))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); {CONVERT}") from error


def _content(path: Path, file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type != ZSTANDARD:
        return file.read(member)
    import pyarrow as pa

    with path.open("rb") as raw:
        raw.seek(member.header_offset)
        header = raw.read(30)  # of which the last four bytes are the lengths of the name and of what else is there
        name, extra = (int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
        raw.seek(member.header_offset + 30 + name + extra)
        packed = raw.read(member.compress_size)
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        return bytes(stream.read(member.file_size))


def _of_inspect(path: Path, samples: Sequence[Row]) -> list[Row]:
    """One row for each sample of each epoch; those that ended with an error before they had an answer are left out."""
    rows, failed = [], 0
    for where, values, _ in samples:
        if missing := {"id", "epoch", "input", "output"} - values.keys():
            raise UserError(f"{where}: no key '{min(missing)}', so it is not as Inspect writes it; {CONVERT}")
        output = json_object(f"{where}: output", values["output"])
        if values.get("error") and not output.get("choices"):
            failed += 1
            continue
        kept = values.get("attachments") or {}
        turns = values["input"]
        prompt = turns if isinstance(turns, str) else _user_text(turns)
        answer = output.get("completion") or _choice(output)
        told = {"id": f"{values['id']}_epoch_{values['epoch']}"}
        told |= {"prompt": _attached(prompt, kept), "response": _attached(answer, kept)}
        rows.append(Row(where, values | told, "log of Inspect: requests are 'input', answers 'output.completion'"))
    if failed:
        log.warning("%s: %d of %d samples ended with an error and have no answer; left out", path, failed, len(samples))
    return rows


def _choice(output: Mapping[str, Any]) -> str:
    choices = output.get("choices") or []
    return _text(choices[0].get("message")) if choices and isinstance(choices[0], dict) else ""


def _attached(text: str, kept: Mapping[str, str]) -> str:
    """A text, which Inspect may keep elsewhere."""
    return kept.get(text.removeprefix(ATTACHMENT), text) if text.startswith(ATTACHMENT) else text


# --- both -------------------------------------------------------------------------------------------------------------


def _user_text(turns: Any) -> str:
    """The last message of the user in a chat."""
    said = [_text(turn) for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    return said[-1] if said else ""


def _text(turn: Any) -> str:
    """What a message says; its content may be a list of parts."""
    content = turn.get("content") if isinstance(turn, dict) else None
    if isinstance(content, str):
        return content
    parts = [part for part in content or [] if isinstance(part, dict) and part.get("type") == "text"]
    return "\n".join(str(part.get("text", "")) for part in parts)


def nested(values: Mapping[str, Any], column: str, otherwise: Any = None) -> Any:
    """The value in a column, or in one inside another: `doc.goal`."""
    if column in values:
        return values[column]
    outer, _, inner = column.partition(".")
    there = values.get(outer)
    return nested(there, inner, otherwise) if inner and isinstance(there, dict) else otherwise


def _names(values: Any, name: str) -> list[str]:
    """The columns inside a value, dotted."""
    if not isinstance(values, dict):
        return [name]
    return [one for key, value in values.items() for one in _names(value, f"{name}.{key}")]


def columns_of(values: Mapping[str, Any]) -> list[str]:
    """What a row's columns are called; those of a column of columns, such as `doc`, dotted."""
    return [
        name
        for key, value in values.items()
        for name in ([f"{key}.{inner}" for inner in value] if isinstance(value, dict) and value else [str(key)])
    ]
