"""Making a task folder from a file of prompts, and telling what is wrong with one."""

import hashlib
import logging
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.files import write_jsonl, write_text
from sails_eval.core.paths import bundled, search_path
from sails_eval.core.records import Kind
from sails_eval.core.schema import check_name
from sails_eval.data.files import Row, read_rows
from sails_eval.tasks.entries import Entry, code_problems, read_entry, yaml_files
from sails_eval.tasks.library import Library, kind_problem, load_task, scan, task_folders, task_info

logger = logging.getLogger(__name__)

SHARED = ("_generate.yaml", "utils.py")
"""Copied into every task made of prompts, so that its folder works alone; the originals are the testbed's."""


@dataclass(frozen=True)
class Columns:
    """The columns of a file of prompts: `target` has expected answers; without `category` the task is one."""

    prompt: str
    target: str | None = None
    category: str | None = None


def new_task(name: str, *, source: Path, columns: Columns, kind: Kind, directory: Path | None = None) -> Path:
    """Make the task folder `directory`/NAME (./tasks/NAME) from a CSV, JSON, JSONL or Parquet file.

    The fifth of the prompts with the lowest hashes becomes validation, whatever the order of the file.
    Repeated prompts are dropped, their number logged and kept in the task's metadata.

    Raises UserError for a bad or taken name, an existing folder, a file that cannot be read, a missing column, an empty
    cell, a target where there can be none, or fewer than two prompts.
    """
    root = directory or Path("tasks")
    _check_request(name, columns, kind, root)
    rows = read_rows(source)
    documents = _documents(name, rows, columns)
    if len(documents) < 2:
        raise UserError(f"{source}: a task needs at least two different prompts, one of them for validation")
    by_hash = sorted(documents, key=lambda document: _hash(document["prompt"]))
    held_back = {document["id"] for document in by_hash[: max(1, round(len(by_hash) / 5))]}
    splits = {
        "validation": [document for document in documents if document["id"] in held_back],
        "test": [document for document in documents if document["id"] not in held_back],
    }
    dropped = len(rows) - len(documents)
    settings = _settings(name, columns, kind)
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    settings["metadata"] |= {"source": source.name, "source_sha256": sha256, "duplicates_dropped": dropped}
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=f".{name}.") as temporary:
        folder = Path(temporary) / name
        for split, chosen in splits.items():
            write_jsonl(folder / "data" / f"{split}.jsonl", chosen)
        write_text(folder / f"{name}.yaml", yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        for shared in SHARED:
            shutil.copyfile(bundled("tasks") / "testbed" / shared, folder / shared)
        folder.rename(root / name)
    counts = ", ".join(f"{len(chosen)} {split}" for split, chosen in splits.items())
    logger.info("%s: %s prompts, %d repeated ones dropped", root / name, counts, dropped)
    return root / name


def _check_request(name: str, columns: Columns, kind: Kind, root: Path) -> None:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise UserError(f"'{name}' can't name a task; use letters, digits, _ and -, beginning with a letter")
    if kind not in get_args(Kind):
        raise unknown("kind of task", kind, get_args(Kind))
    if kind == "harmful" and columns.target:
        raise UserError("harmful requests have no correct answer to compare with; leave out --target-column")
    if kind == "capability" and not columns.target:
        raise UserError("capability tasks are scored by correct answers; name their column: --target-column COL")
    if (root / name).exists():
        raise UserError(f"{root / name} exists already; choose another name, or remove it first")
    if name in scan(search_path("tasks", (root,))).names():
        raise UserError(f"there is a task or group '{name}' already; choose another name")


def _documents(name: str, rows: list[Row], columns: Columns) -> list[dict[str, Any]]:
    """The documents of the rows without repeated prompts; ids take 8 digits of the hash or more."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        prompt = _cell(row, columns.prompt)
        category = _cell(row, columns.category) if columns.category else name
        target = _cell(row, columns.target) if columns.target else None
        found.setdefault(prompt, {"prompt": prompt, "category": category, "target": target})
    hashes = [_hash(prompt) for prompt in found]
    digits = next(n for n in range(8, 65) if len({text[:n] for text in hashes}) == len(hashes))
    ids = [f"{name}-{text[:digits]}" for text in hashes]
    return [{"id": id_, **document} for id_, document in zip(ids, found.values(), strict=True)]


def _cell(row: Row, column: str) -> str:
    if column not in row.values:
        found = ", ".join(map(str, row.values))
        raise UserError(
            f"{row.where}: no column '{column}' (found: {found}); give --prompt-column, --target-column or "
            "--category-column the right name"
        )
    value = row.values[column]
    text = "" if value is None else str(value).strip()
    if isinstance(value, dict | list):
        raise UserError(f"{row.where}: column '{column}': expected a text, found a {type(value).__name__}")
    if not text:
        raise UserError(f"{row.where}: column '{column}' is empty; fill it in, or remove the row")
    return text


def _hash(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()


def _settings(name: str, columns: Columns, kind: Kind) -> dict[str, Any]:
    refusal = {"metric": "refusal", "aggregation": "mean", "higher_is_better": kind == "harmful"}
    exact = {"metric": "exact", "aggregation": "mean", "higher_is_better": True}
    return {
        "include": "_generate.yaml",
        "task": name,
        "dataset_kwargs": {"data_folder": "data"},
        "metric_list": [exact, refusal] if columns.target else [refusal],
        "metadata": {"kind": kind, **({"correct": "exact"} if columns.target else {}), "version": 1.0},
    }


def check_named(name: str, extra: tuple[Path, ...] = ()) -> list[str]:
    """What is wrong with a task or the tasks of a group, found by name as everywhere, or by the path of its file or
    folder. Raises UserError where there is no such thing."""
    if Path(name).exists():
        return check_task(Path(name))
    library = scan(task_folders(extra))
    if name in library.faults:
        raise UserError(library.faults[name].text)
    if name not in library.names():
        raise UserError(f"{name}: no such file or folder, and {unknown('task', name, library.names())}")
    if library.lacks(name):
        raise UserError(f"group '{name}' contains lm-eval's own tasks; give the name of one of your tasks")
    return [problem for entry in library.expand(name) for problem in check_task(entry.path)]


def check_task(path: Path) -> list[str]:
    """What is wrong with a task's YAML file, or with all tasks of a folder, each in words that say the fix.

    No code runs but what ships with this package. Raises UserError where there is nothing at `path`, or nothing of it
    can be read.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; for a list of tasks: sails-eval tasks list")
    root = path if path.is_dir() else path.parent
    problems: list[str] = []
    tasks: list[Entry] = []
    groups: list[Entry] = []
    for file in yaml_files(path) if path.is_dir() else [path]:
        try:
            entry = read_entry(file, root)
        except UserError as error:
            problems.append(str(error))
            continue
        if entry is not None:
            (groups if entry.is_group else tasks).append(entry)
    if problems and not tasks and not groups:
        raise UserError("\n".join(problems))
    problems += _group_problems(groups, root)
    if not tasks and not groups:
        problems.append(f"{path}: no YAML file with a key 'task'; `sails-eval tasks new` makes one")
    for entry in tasks:
        problems += [f"{entry.path}: {problem}" for problem in _settings_problems(entry)]
        problems += [f"{entry.path}: {problem}" for problem in dict.fromkeys(code_problems(entry))]
        problems += _data_problems(entry)
    problems += _clashes(tasks)
    return problems or [problem for entry in tasks for problem in _loading_problems(entry)]


def _group_problems(groups: list[Entry], root: Path) -> Iterator[str]:
    library = scan(search_path("tasks", (root,))) if groups else Library()
    for group in groups:
        try:
            if not library.lacks(group.name):  # what it holds may be lm-eval's own
                list(library.expand(group.name))
        except UserError as error:
            yield f"{group.path}: {error}"


def _settings_problems(entry: Entry) -> Iterator[str]:
    config, generation = entry.config, entry.config.get("generation_kwargs") or {}
    try:
        check_name(entry.name)
    except UserError as error:
        yield f"key 'task': {error}"
    if entry.metadata.get("kind") not in get_args(Kind):
        yield kind_problem(entry.metadata.get("kind"))
    if config.get("output_type", "generate_until") == "generate_until":
        if "until" not in generation:
            yield "no generation_kwargs.until, so lm-eval cuts answers at a blank line; add `until: []`"
        if "max_gen_toks" not in generation:
            yield "no generation_kwargs.max_gen_toks, so answers end at 256 tokens; add `max_gen_toks: 512`"
    if not config.get("validation_split"):
        yield "no validation_split to choose rates on; add documents and `validation_split: validation`"
    if not config.get("test_split"):
        yield "no test_split; add documents and `test_split: test`"
    correct = entry.metadata.get("correct")
    if correct and correct not in entry.metrics:
        yield f"metadata.correct: {correct} is not in metric_list; choose out of {', '.join(entry.metrics)}"


def _data_problems(entry: Entry) -> list[str]:
    """Problems of the task's own data files, alike ones summed up; those of the hub are not looked at."""
    problems: list[str] = []
    faults: dict[str, list[str]] = defaultdict(list)
    seen: dict[tuple[str, str], Row] = {}
    for key in ("validation_split", "test_split"):
        if entry.data is None or not entry.config.get(key):
            continue
        file = entry.data / f"{entry.config[key]}.jsonl"
        try:
            rows = read_rows(file)
        except UserError as error:
            problems.append(str(error))
            continue
        if not rows:
            problems.append(f"{file}: holds no documents; add some")
        for row in rows:
            for fault in _row_faults(row, entry):
                faults[fault].append(row.where)
            for field, fix in (("id", "give each document its own"), ("prompt", "keep one, in one split")):
                first = seen.setdefault((field, str(row.values.get(field))), row)
                if first is not row and row.values.get(field):
                    faults[f"the same {field} twice; {fix}"].append(f"{row.where} (as {first.where})")
    for fault, places in faults.items():
        more = f" ({len(places) - 1} more like it)" if len(places) > 1 else ""
        problems.append(f"{places[0]}: {fault}{more}")
    return problems


def _row_faults(row: Row, entry: Entry) -> Iterator[str]:
    if row.note:
        yield f"a text holds half of a surrogate pair ({row.note.partition(',')[0]}); remove it"
    for field in ("id", "prompt", "category"):
        value = row.values.get(field)
        if not isinstance(value, str) or not value.strip():
            yield f"no {field}; add a text"
    if entry.metadata.get("correct") == "exact" and not isinstance(row.values.get("target"), str):
        yield "no target to compare the answer with; add one, or remove metadata.correct"
    if entry.config.get("output_type") == "multiple_choice":
        choices, answer = row.values.get("choices"), row.values.get("answer")
        if not isinstance(choices, list) or answer not in range(len(choices)):
            yield "'answer' is not the index of one of the 'choices'"


def _clashes(tasks: list[Entry]) -> Iterator[str]:
    mine = {entry.path.resolve() for entry in tasks}
    owners: dict[str, list[Path]] = defaultdict(list)
    for entry in tasks:
        owners[entry.name].append(entry.path)
    others = {file.resolve(): (file, root) for root in search_path("tasks") for file in yaml_files(root)}
    for file, root in (others[key] for key in sorted(others.keys() - mine)):
        try:
            other = read_entry(file, root)
        except UserError:  # broken, but not the one to be checked
            continue
        if other is not None and other.name in owners:
            owners[other.name].append(file)
    for name, (first, *rest) in owners.items():
        if rest:
            yield f"{first}: the name '{name}' is taken by {', '.join(map(str, rest))}; choose another"


def _loading_problems(entry: Entry) -> Iterator[str]:
    if entry.data is None or entry.code:  # documents from the hub might mean a download; others' code is not run here
        return
    info = task_info(entry)
    try:
        load_task(info, "test")
        load_task(info, "validation")
    except UserError as error:
        yield str(error)
