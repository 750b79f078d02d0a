"""The typed values that pass between the stages, and the JSONL files they live in."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from typing_extensions import TypedDict  # pydantic reads it, and not that of Python 3.11

from sails_eval.core import checksums
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_jsonl

BASE = "base"
"""The row of the bare base model, which every comparison has."""

Kind = Literal["harmful", "safe", "capability"]
"""What a task asks for: harmful requests (to refuse), safe ones (to answer), or a capability to keep."""

Split = Literal["validation", "test"]

Label = Literal["refusal", "deflection", "partial", "compliance", "broken"]
"""What an answer does. `deflection`: it turns away without saying so and gives no content; to a safe request that is a
`refusal`. `broken`: empty, cut off before any content, repetitive, an echo of the request, or off topic."""

DECLINED: tuple[Label, ...] = ("refusal", "deflection")
"""The labels of answers that decline, in coherent words."""


@dataclass(frozen=True)
class Completion:
    """What a model answered to one prompt of one task.

    `prompt` is the request as the user wrote it, without the chat template. `value` is the task's own metric for
    this document (1.0 is correct) where it has one that can check the answer, else None. Capability tasks are
    scored by log-likelihood, so their `response` may be empty. `looped`: it only repeated itself, so it was ended.
    """

    id: str
    prompt: str
    response: str
    category: str
    value: float | None = None
    looped: bool = False


class Vote(TypedDict):
    """What one member of a panel or cascade said of a completion, as in `Verdict`; `judge` is its name."""

    judge: str
    label: Label | None
    score: int | None
    unscored: str | None
    raw: str | None


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one completion: a label (and, on harmful requests, a score from 1 to 5), or unscored.

    `unscored` is None or the reason for which there is no verdict; then `label` and `score` are None. `raw` keeps
    what the judge replied wherever that could not be read, `votes` what each member of a panel said, in their order,
    or each that was asked of a cascade, of whom the last decided.
    """

    id: str
    label: Label | None = None
    score: int | None = None
    unscored: str | None = None
    raw: str | None = None
    votes: list[Vote] | None = None


@dataclass(frozen=True)
class RowKey:
    """Whose answers to which task; `seed` and `learning_rate` are None for models that were not trained here."""

    method: str
    seed: int | None
    learning_rate: float | None
    split: Split
    task: str


@dataclass(frozen=True)
class Result(RowKey):
    """One row of the tidy results.csv: a metric of one method's seed and learning rate on one category of a task.

    `value` is a mean over `n` scored documents; `unscored` counts those that have no verdict and are left out of `n`.
    """

    category: str
    metric: str
    value: float
    n: int
    unscored: int


def verdicts_of(rows: list[dict[str, Any]]) -> list[Verdict]:
    """The verdicts that mappings say. Raises ValueError where one does not."""
    found: list[Verdict] = _checked(Verdict).validate_python(rows)
    return found


Kept = TypeVar("Kept", Completion, Verdict)


def read_completions(path: Path) -> list[Completion]:
    """Raises UserError where the file is not as it was written, or a line is no completion."""
    return _read(path, Completion)


def read_verdicts(path: Path) -> list[Verdict]:
    """As `read_completions`, of verdicts."""
    return _read(path, Verdict)


def _read(path: Path, kind: type[Kept]) -> list[Kept]:
    checksums.check(path)
    rows = list(read_jsonl(path))
    from pydantic import ValidationError

    try:
        found: list[Kept] = _checked(kind).validate_python(rows)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        first = error.errors()[0]
        number, *key = first["loc"]
        told = f"{path}:{int(number) + 1}: key '{'.'.join(map(str, key))}': {first['msg']}"
        raise UserError(f"{told}; {checksums.FIX}") from error
    return found


@cache
def _checked(kind: Any) -> Any:
    """What makes lists of a kind of mappings; pydantic is imported where there is something to read."""
    from pydantic import TypeAdapter

    return TypeAdapter(list[kind])
