"""Answers that come with labels of their own, turned into preferences: which is safe, and which of two is better.

Three shapes are known: PKU-SafeRLHF's two responses to a prompt, BeaverTails' `is_safe` beside each response, and TRL's
unpaired preferences, `label` beside each completion; a response may also be the last of `messages`. What is learnt is a
safe answer; what is rejected, an unsafe one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.data.dialogues import DIALOGUES, REQUESTS, RESPONSES, field_of, listed
from sails_eval.data.files import Row

_FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

_CONTEXT = (*REQUESTS, "input", "system", "history")
"""The columns that hold what an answer answers."""

_UNKNOWN = "a label of theirs is missing (null)"


def flag(row: Row, name: str) -> bool:
    """A column that says true or false (1 or 0 will do). Raises UserError where it says something else."""
    said = str(row.values.get(name)).strip().lower()
    if said not in _FLAGS:
        raise UserError(f"{row.where}: field '{name}': expected true or false, but found {said!r}")
    return _FLAGS[said]


def preferences(rows: Iterable[Row], left_out: Counter[str]) -> Iterator[Row]:
    """The same rows, but those with labels as `chosen` and `rejected` answers to a prompt, or `response` alone.

    Answers that are labelled one by one are paired in order, the first safe one to a prompt with the first unsafe one,
    and come last. `left_out` counts the answers that nothing can be learnt from, by reason.
    """
    single: dict[str, _Answers] = {}
    for row in rows:
        if "response_0" in row.values and "response_1" in row.values:
            yield from _of_two(row, left_out)
        elif label := _label(row):
            if row.values[label] is None:
                left_out[_UNKNOWN] += 1
                continue
            row = _answer_apart(row)
            answer = row.values[field_of(row, RESPONSES, "response")]
            field_of(row, REQUESTS, "request")
            asked = _kept(row, _CONTEXT)
            same = single.setdefault(
                json.dumps(asked, default=str), _Answers(row.where, _kept(row, ("group",)) | asked)
            )
            (same.safe if flag(row, label) else same.unsafe).append(answer)
        else:
            yield row
    for answers in single.values():
        yield from answers.paired()
        left_out["no safe answer to pair with the unsafe one"] += len(answers.unsafe[len(answers.safe) :])


@dataclass(frozen=True)
class _Answers:
    """What was answered to a request; `where` it was asked first, `kept` are the columns beside the answers there."""

    where: str
    kept: dict[str, Any]
    safe: list[Any] = field(default_factory=list)
    unsafe: list[Any] = field(default_factory=list)

    def paired(self) -> Iterator[Row]:
        for safe, unsafe in zip_longest(self.safe, self.unsafe[: len(self.safe)]):
            answers = {"response": safe} if unsafe is None else {"chosen": safe, "rejected": unsafe}
            yield Row(self.where, {**self.kept, **answers})


def _kept(row: Row, names: Iterable[str]) -> dict[str, Any]:
    return {name: row.values[name] for name in names if row.values.get(name) is not None}


def _label(row: Row) -> str | None:
    """The column that labels the row's answer; `label` alone may be anything, so only true and false count there.

    Beside a `completion`, as TRL has it, so do 1, 0 and null.
    """
    if row.values.get("chosen") is not None:
        return None
    label = row.values.get("label", "")
    flags = (*_FLAGS, "none") if "completion" in row.values else ("true", "false")
    told = str(label).strip().lower() in flags
    return "is_safe" if "is_safe" in row.values else "label" if told else None


def _answer_apart(row: Row) -> Row:
    """The row; of messages the last is the response to the others."""
    for name in DIALOGUES:
        if isinstance(turns := listed(row.values.get(name)), list):
            return row._replace(values={**row.values, "prompt": turns[:-1], "response": turns[-1:]})
    return row


def _of_two(row: Row, left_out: Counter[str]) -> Iterator[Row]:
    """Of one safe and one unsafe answer a preference; of two safe ones the better; of two unsafe ones nothing."""
    better = next((name for name in ("better_response_id", "safer_response_id") if name in row.values), "")
    labels = [f"is_response_{n}_safe" for n in (0, 1)]
    if any(row.values.get(name, "") is None for name in labels):
        left_out[_UNKNOWN] += 1
        return
    safe = [flag(row, name) for name in labels]
    kept = _kept(row, (*_CONTEXT, "group"))
    if not any(safe):
        left_out["both answers are labelled unsafe"] += 1
    elif not all(safe):
        chosen = safe.index(True)
        answers = {"chosen": row.values[f"response_{chosen}"], "rejected": row.values[f"response_{1 - chosen}"]}
        yield Row(row.where, {**kept, **answers})
    elif better and row.values[better] is None:
        left_out[_UNKNOWN] += 1
    else:
        best = row.values.get(better, 0)
        if best not in (0, 1, "0", "1"):
            raise UserError(f"{row.where}: field '{better}': expected 0 or 1, but found {best!r:.40}")
        yield Row(row.where, {**kept, "response": row.values[f"response_{int(best)}"]})
