"""Training and contrast data from wherever it comes: streamed, chosen by column, mixed by share."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import Any

from sails_eval.core.data_source import HUB, Mixture, MixturePart, Selection
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.files import read_bytes
from sails_eval.core.fingerprint import digest
from sails_eval.data.dialogues import REQUESTS, RESPONSES, Example, Message, example_of, request_of
from sails_eval.data.files import Row, parse
from sails_eval.data.hub import fetch, hub_rows, parse_spec
from sails_eval.data.labelled import flag, preferences

COLUMNS = (
    *REQUESTS, *RESPONSES, "input", "system", "history", "chosen", "rejected", "messages", "conversations", "group",
    "harmful", "is_safe", "label", "response_0", "response_1", "is_response_0_safe", "is_response_1_safe",
    "better_response_id", "safer_response_id", "text",
)  # fmt: skip
"""What `columns` can say another name of."""


@dataclass(frozen=True)
class DataFile:
    """The usable examples of a source, a line on whatever was odd about a row, and a hash of all that was read.

    `rows` counts those that were read, `left_out` says by reason how many answers nothing is learnt from, though
    nothing is odd about them. The hash is that of a plain file's bytes; what is chosen of a source is in it, too.
    """

    examples: tuple[Example, ...]
    odd: tuple[str, ...]
    sha256: str
    rows: int = 0
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Requests:
    """Harmful and harmless requests, each in its context; what was odd and the hash as in `DataFile`."""

    harmful: tuple[tuple[Message, ...], ...]
    harmless: tuple[tuple[Message, ...], ...]
    odd: tuple[str, ...]
    sha256: str


def read_examples(data: Path | Selection | Mixture) -> DataFile:
    """Read training data: a file (JSONL, JSON, CSV, each also .gz, or Parquet), a data set on the hub, or a mixture.

    What a row may hold says `example_of`, and `preferences` where its answers have labels. Of preference data the
    chosen response is learnt; `rejected` is kept where both answer the same context. Rows without a request or a
    response are skipped and listed in `odd`.

    Raises UserError naming file, line or row, and field of whatever is malformed, and where the source cannot be had,
    no row is usable, or a mixture's source has fewer examples than its share takes.
    """
    return _read(data, pairs=False)


def read_contrast(data: Path | Selection | Mixture) -> DataFile:
    """Read pairs of a chosen and a rejected response to the same context; what makes no pair is in `odd`.

    Raises UserError as `read_examples`, and where no row makes a pair.
    """
    return _read(data, pairs=True)


def read_requests(data: Path | Selection) -> Requests:
    """Read requests without answers, from sources as `read_examples` does.

    A row holds a request under one of the names in `REQUESTS`, and `harmful`: true or false (1 or 0 will do). Raises
    UserError naming file, line or row, and field of whatever is malformed, and where either kind is missing.
    """
    odd: list[str] = []
    found: dict[bool, list[tuple[Message, ...]]] = {True: [], False: []}
    rows, sha256 = open_rows(data)
    for row in rows:
        if turns := request_of(row, odd):
            found[flag(row, "harmful")].append(turns)
    for kind, requests in found.items():
        if not requests:
            raise UserError(f"{data}: no request whose field 'harmful' is {str(kind).lower()}; both kinds are needed")
    return Requests(tuple(found[True]), tuple(found[False]), tuple(odd), sha256)


def pinned(data: Any) -> Any:
    """The same source, at the commit that it is of now where it is on the hub, so that all of a run reads the same."""
    if isinstance(data, Mixture):
        return data.model_copy(update={"mix": tuple(pinned(part) for part in data.mix)})
    if not isinstance(data, Selection) or not data.data.startswith(HUB):
        return data
    spec = parse_spec(data.data)
    return data.model_copy(update={"data": str(replace(spec, revision=fetch(spec).commit))})


def _read(data: Path | Selection | Mixture, *, pairs: bool) -> DataFile:
    if isinstance(data, Mixture):
        return _mixed(data, pairs=pairs)
    if isinstance(data, Path):
        return _read_once(data, pairs, _hash_of(data))
    if data.data.startswith(HUB):  # a commit on the hub never changes
        return _read_once(pinned(data).model_dump_json(), pairs, "")
    return _read_once(data.model_dump_json(), pairs, _hash_of(Path(data.data)))


@lru_cache(maxsize=8)
def _read_once(source: Path | str, pairs: bool, state: str) -> DataFile:
    """A plan looks at the same data many times; they are parsed again where their `state` is another one."""
    data = source if isinstance(source, Path) else Selection.model_validate_json(source)
    rows, sha256 = open_rows(data)
    number = count()
    odd: list[str] = []
    counted = _counted(rows, number, odd)
    left_out: Counter[str] = Counter()
    found = (example_of(row, odd) for row in preferences(counted, left_out))
    examples = tuple(example for example in found if example is not None)
    told = tuple(f"{data}: {n} left out: {reason}" for reason, n in left_out.items() if n)
    if not examples:
        reason = next(iter((*odd, *told)), "it has no rows")
        raise UserError(f"{data}: no usable example; {reason.removeprefix(f'{data}: ')}")
    if pairs:
        examples = tuple(example for example in examples if example.rejected is not None)
        if not examples:
            reason = next(iter((*odd, *told)), "contrast data need the fields chosen and rejected")
            raise UserError(f"{data}: no pairs of two responses to the same request; {reason}")
    return DataFile(examples, tuple(odd), sha256, next(number), told)


def _hash_of(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()


def _counted(rows: Iterator[Row], number: Iterator[int], odd: list[str]) -> Iterator[Row]:
    """The same rows, each taking a number; what was changed about them goes to `odd`."""
    for row in rows:
        next(number)
        if row.note:
            odd.append(f"{row.where}: {row.note}")
        yield row


def open_rows(data: Path | Selection) -> tuple[Iterator[Row], str]:
    """The rows that are chosen of a source, and a hash of all that they depend on."""
    if isinstance(data, Path):
        content = read_bytes(data)
        return parse(data, content), hashlib.sha256(content).hexdigest()
    if data.data.startswith(HUB):
        spec = parse_spec(data.data)
        rows, origin = hub_rows(spec), [spec.repo, spec.config, fetch(spec).commit, spec.split]
    else:
        content = read_bytes(Path(data.data))
        rows, origin = parse(Path(data.data), content), [hashlib.sha256(content).hexdigest()]
    chosen = islice(_chosen(data, rows), data.limit)
    return chosen, digest([origin, data.columns, data.where, data.limit])


def _chosen(data: Selection, rows: Iterator[Row]) -> Iterator[Row]:
    """The rows that `where` lets pass; under our names, and nothing else of them, where `columns` gives any.

    Raises UserError where the first row lacks a column that is named, or no row passes.
    """
    for ours in data.columns:
        if ours not in COLUMNS:
            raise unknown(f"name in key 'columns' of {data.name}:", ours, COLUMNS)
    wanted = {column: _words(value) for column, value in data.where.items()}
    seen: dict[str, Counter[str]] = {column: Counter() for column in wanted}
    passed = 0
    for number, row in enumerate(rows):
        for column in (*data.columns.values(), *wanted) if number == 0 else ():
            if column not in row.values:
                raise unknown(f"column of {data.name}:", column, map(str, row.values))
        words = {column: _words(row.values.get(column)) for column in wanted}
        for column in wanted:
            seen[column].update(words[column])
        if all(set(words[column]) & set(wanted[column]) for column in wanted):
            passed += 1
            renamed = {ours: row.values.get(theirs) for ours, theirs in data.columns.items()}
            yield row._replace(values=renamed) if renamed else row
    if seen and not passed:
        found = "; ".join(
            f"'{column}' has {', '.join(word for word, _ in counts.most_common(5)) or 'no values'}"
            for column, counts in seen.items()
        )
        raise UserError(f"{data.name}: no rows match the filter 'where'; in the data {found}")


def _words(value: Any) -> tuple[str, ...]:
    """Values as text, as a CSV would have them."""
    return tuple(str(one).strip().lower() for one in (value if isinstance(value, (tuple, list)) else (value,)))


def _mixed(data: Mixture, *, pairs: bool) -> DataFile:
    """Of every part its share, drawn at random, always the same ones; the part is the examples' group."""
    files = [_read(Selection(**part.model_dump(exclude={"share"})), pairs=pairs) for part in data.mix]
    held = [len(file.examples) for file in files]
    most = min(int(number / part.share + 1e-9) for number, part in zip(held, data.mix, strict=True))
    total = data.examples or most
    if total > most:
        number, part = min(zip(held, data.mix, strict=True), key=lambda one: one[0] / one[1].share)
        raise UserError(
            f"mixture: {100 * part.share:g} % of {total} examples is more than the {number} in {part.name}; set "
            f"'examples' to {most} or less, or lower its share"
        )
    examples: list[Example] = []
    for index, (part, file, number) in enumerate(zip(data.mix, files, _numbers(data.mix, total), strict=True)):
        drawn = random.Random(f"part {index} of a mixture").sample(file.examples, number)
        examples += [replace(example, group=f"{index}:{part.name}/{example.group}") for example in drawn]
    return DataFile(
        tuple(examples),
        tuple(line for file in files for line in file.odd),
        digest([[file.sha256 for file in files], [part.share for part in data.mix], data.examples]),
        sum(file.rows for file in files),
        tuple(line for file in files for line in file.left_out),
    )


def _numbers(parts: tuple[MixturePart, ...], total: int) -> list[int]:
    """Whole numbers of examples that sum to `total`, each part's next to its share: the largest remainders go up."""
    exact = [part.share * total for part in parts]
    numbers = [int(number + 1e-9) for number in exact]
    order = sorted(range(len(parts)), key=lambda index: numbers[index] - exact[index])
    for index in order[: total - sum(numbers)]:
        numbers[index] += 1
    return numbers
