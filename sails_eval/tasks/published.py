"""Published prompt sets: the card of one, its rows from the hub or from a local copy, and the documents made of them.

A folder of `tasks/` names `load` as its `custom_dataset` and hands over the keys of its YAML files as a `Card`.
"""

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from sails_eval.core.errors import UserError
from sails_eval.core.schema import Frozen, validate
from sails_eval.data.files import Row, read_rows, read_text
from sails_eval.data.hub import HubData, hub_rows, snapshot
from sails_eval.judges.rules import declines

if TYPE_CHECKING:
    from datasets import Dataset

DATA = "SAILS_EVAL_DATA"
"""Environment variable: a folder of local copies, each called after its task, its set, or as the original file is."""

TASK_DATA = "SAILS_EVAL_TASK_DATA"
"""Environment variable: NAME=FILE, several with the system's path separator between; what `--task-data` sets."""

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz")


class Card(Frozen):
    """Where the prompts of a task come from, what may be done with them, and how their authors score answers."""

    name: str = Field(description="the task's name")
    set: str = Field(description="the benchmark's name, which local copies may have, too")
    title: str
    source: str = Field(description="the paper")
    hub: str = Field(description="data set id on the Hugging Face hub")
    config: str | None = Field(default=None, description="configuration or folder")
    split: str = "train"
    revision: str = "main"
    csv: str | None = Field(default=None, description="pattern of CSV files without a header, one for each category")
    licence: str
    gated: bool
    redistributable: bool
    size: str = Field(description="prompts, and who counted them")
    categories: str
    prompt: tuple[str, ...] = Field(description="columns that may hold the prompt, the first one that is there counts")
    context: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    where: dict[str, str] = Field(default_factory=dict, description="values that the rows of this task have")
    where_on_hub: bool = Field(default=True, description="false: the hub's config holds this task's rows alone")
    files: tuple[str, ...] = Field(default=(), description="names of the original files")
    convention: str = Field(description="the authors' own metric, where it differs from ours")
    note: str = ""


def card_of(settings: dict[str, Any], where: str) -> Card | None:
    """The card in a task's settings; None for a task that has none. Raises UserError naming the faulty key."""
    card = (settings.get("dataset_kwargs") or {}).get("card")
    rows = (settings.get("metadata") or {}).get("rows")
    return None if card is None else validate(Card, {**card, **(rows or {})}, where=where)


def use_local(given: Iterable[str]) -> None:
    """Have tasks read local copies, each given as NAME=FILE; worker processes inherit it.

    Raises UserError for what is not of that form, or no such file.
    """
    copies = []
    for pair in given:
        name, equals, file = pair.partition("=")
        if not (name and equals):
            raise UserError(f"--task-data {pair}: expected NAME=FILE, as in advbench=advbench.csv")
        if not Path(file).exists():
            raise UserError(f"--task-data {pair}: no such file or folder; correct the path after NAME=")
        copies.append(f"{name}={Path(file).resolve()}")
    if copies:
        os.environ[TASK_DATA] = os.pathsep.join(copies)


def local_copy(card: Card) -> Path | None:
    """The file, or folder of files, that is read instead of the hub; None where there is none."""
    named = dict(pair.partition("=")[::2] for pair in os.environ.get(TASK_DATA, "").split(os.pathsep) if pair)
    if (copy := named.get(card.name, named.get(card.set))) is not None:
        return Path(copy)
    if not (folder := os.environ.get(DATA)):
        return None
    if not Path(folder).is_dir():
        raise UserError(f"{DATA}={folder}: no such folder; correct or unset this variable")
    stems = [card.name + suffix for suffix in SUFFIXES]
    names = [*stems, *card.files, *(card.set + suffix for suffix in SUFFIXES if not card.files)]
    return next((path for name in names if (path := Path(folder) / name).exists()), None)


def bound(card: Card) -> bool:
    """Whether terms bind a task's prompts: its set is gated, unless what is read is one's own copy of free ones.

    Others keep some free sets on the hub behind a gate.
    """
    return card.gated and not (card.redistributable and local_copy(card))


def fingerprint(card: Card) -> str:
    """What the documents depend on besides the settings: the bytes of the local copy, if that is read."""
    if (copy := local_copy(card)) is None:
        return ""
    files = sorted(copy.glob("*.csv")) if copy.is_dir() else [copy]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def load(*, card: dict[str, Any], rows: dict[str, Any], **_metadata: Any) -> dict[str, "Dataset"]:
    """The splits of a published set: a fifth of its prompts, those with the lowest hashes, is for validation.

    `card` says what a set's tasks share, `rows` which of its rows are a task's. Raises UserError where the set can't be
    had, a column is missing, or it has no rows of this task.
    """
    from datasets import Dataset

    documents = read_documents(Card(**{**card, **rows}))
    by_hash = sorted(documents, key=lambda document: document["id"])
    held_back = {document["id"] for document in by_hash[: len(by_hash) // 5]}
    return {
        "validation": Dataset.from_list([d for d in documents if d["id"] in held_back]),
        "test": Dataset.from_list([d for d in documents if d["id"] not in held_back]),
    }


def sizes(card: Card) -> tuple[int | None, int | None]:
    """How many documents of a local copy are for validation and for the test; None where none is read, or is faulty."""
    if local_copy(card) is None:
        return None, None
    try:
        documents = len(read_documents(card))
    except UserError:  # which is told where the documents are needed
        return None, None
    return documents // 5, documents - documents // 5


def read_documents(card: Card) -> list[dict[str, str]]:
    """All documents of a task (`id`, `prompt`, `category`), repeated prompts once; ids depend on the prompt only."""
    copy = local_copy(card)
    rows = _hub_rows(card) if copy is None else _file_rows(card, copy)
    if not rows:
        raise UserError(f"task '{card.name}': {copy or card.hub} holds no rows")
    here = str(copy or card.hub)
    if copy is not None or card.where_on_hub:
        rows = _matching(card, rows, here)
    prompt = _column(card, rows, card.prompt, here)
    category = _column(card, rows, card.category, here, what="category ") if card.category else None
    context = next((name for name in card.context if name in rows[0].values), None)
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        text = "\n\n".join(part for part in (_text(row, context), _text(row, prompt)) if part)
        if not text:
            raise UserError(f"{row.where}: column '{prompt}' is empty; fill it in, or remove the row")
        id_ = f"{card.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        found.setdefault(id_, {"id": id_, "prompt": text, "category": _text(row, category) or card.name})
    if len(found) < 5:
        raise UserError(
            f"task '{card.name}': {here} has {len(found)} prompts; add some: five are needed to hold one back"
        )
    return list(found.values())


def _matching(card: Card, rows: list[Row], here: str) -> list[Row]:
    for key, value in card.where.items():
        column = _column(card, rows, (key,), here)
        values = {str(row.values.get(column)) for row in rows}
        rows = [row for row in rows if str(row.values.get(column)).casefold() == value.casefold()]
        if not rows:
            raise UserError(
                f"task '{card.name}': {here} has no rows whose '{column}' is '{value}'; "
                f"found {', '.join(sorted(values)[:8])}"
            )
    return rows


def _column(card: Card, rows: list[Row], names: tuple[str, ...], here: str, what: str = "") -> str:
    """The first of these columns that the rows have, whatever the case of its letters."""
    there = {str(name).casefold(): str(name) for name in rows[0].values}
    if found := [there[name.casefold()] for name in names if name.casefold() in there]:
        return found[0]
    raise UserError(
        f"task '{card.name}': {here} has no {what}column {' or '.join(map(repr, names))}; "
        f"found {', '.join(map(repr, there.values()))}; rename one"
    )


def _text(row: Row, column: str | None) -> str:
    """A cell as text; of a list of turns and of an HH-RLHF dialogue, what the user says first."""
    value = row.values.get(column) if column else None
    if isinstance(value, list):
        value = value[0] if value else ""
    text = "" if value is None else re.sub("\r\n?", "\n", str(value)).strip()
    if text.startswith("Human:"):
        text = re.split(r"\n\n(?:Human|Assistant):", text.removeprefix("Human:"), maxsplit=1)[0].strip()
    return text


def _file_rows(card: Card, path: Path) -> list[Row]:
    if not path.is_dir():
        return read_rows(path)
    if card.csv is None:
        raise UserError(f"{path}: a folder; give the file of task '{card.name}'")
    return _headerless(sorted(path.glob(card.csv)))


def _headerless(files: Iterable[Path]) -> list[Row]:
    rows = []
    for file in files:
        lines = csv.reader(io.StringIO(read_text(file), newline=""))
        try:
            found = [(number, cells[0]) for number, cells in enumerate(lines, start=1) if cells]
        except csv.Error as error:
            raise UserError(f"{file}: not valid CSV ({error})") from error
        rows += [Row(f"{file}: row {n}", {"prompt": prompt, "category": file.stem}) for n, prompt in found]
    return rows


def _hub_rows(card: Card) -> list[Row]:
    data = HubData(card.hub, card.config, card.revision, card.split)
    way_out = f"or give a copy of the file: --task-data {card.name}=FILE (or a folder of copies: {DATA}=DIR)"
    try:
        if card.csv is None:
            return list(hub_rows(data, way_out))
        return _headerless(sorted(snapshot(data, [card.csv], way_out).glob(card.csv)))
    except UserError as error:
        gated = f" asks for data that is gated (https://huggingface.co/datasets/{card.hub})" if card.gated else ""
        raise UserError(f"task '{card.name}'{gated}: {error}") from error


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`refusal`: the answer declines by the phrase rules. What counts on a board is the judge's verdict."""
    return {"refusal": float(declines(results[0], doc["prompt"]))}


def subject_as_category(documents: "Dataset") -> "Dataset":
    """MMLU's documents with their subject as the category that results are split by."""
    return documents.rename_column("subject", "category")
