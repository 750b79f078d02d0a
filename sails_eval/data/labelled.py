"""Answers that come with labels of their own, turned into preferences: which is safe, and which of two is better.

Three shapes are known: PKU-SafeRLHF's two responses to a prompt, BeaverTails' `is_safe` beside each response, and TRL's
unpaired preferences, `label` beside each completion. What is learnt is a safe answer; what is rejected, an unsafe one.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.data.dialogues import REQUESTS, RESPONSES, field_of
from sails_eval.data.files import Row

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


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
            if (found := _of_two(row)) is not None:
                yield found
            else:
                left_out["both answers are labelled unsafe"] += 1
        elif label := _label(row):
            answer = row.values[field_of(row, RESPONSES, "response")]
            prompt = row.values[field_of(row, REQUESTS, "request")]
            same = single.setdefault(json.dumps(prompt, default=str), _Answers(row, prompt))
            (same.safe if flag(row, label) else same.unsafe).append(answer)
        else:
            yield row
    for answers in single.values():
        yield from answers.paired()
        left_out["no safe answer to pair with the unsafe one"] += len(answers.unsafe[len(answers.safe) :])


@dataclass(frozen=True)
class _Answers:
    """What was answered to a prompt; `first` is the row where it was asked first."""

    first: Row
    prompt: Any
    safe: list[Any] = field(default_factory=list)
    unsafe: list[Any] = field(default_factory=list)

    def paired(self) -> Iterator[Row]:
        kept = {"prompt": self.prompt, "group": self.first.values.get("group")}
        for safe, unsafe in zip_longest(self.safe, self.unsafe[: len(self.safe)]):
            answers = {"response": safe} if unsafe is None else {"chosen": safe, "rejected": unsafe}
            yield Row(self.first.where, {**kept, **answers})


def _label(row: Row) -> str | None:
    """The column that labels the row's answer; `label` alone may be anything, so only true and false count there."""
    if any(row.values.get(name) is not None for name in ("chosen", "messages", "conversations")):
        return None
    for name in ("is_safe", "label"):
        value = row.values.get(name)
        if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false")):
            return name
    return None


def _of_two(row: Row) -> Row | None:
    """Of one safe and one unsafe answer a preference; of two safe ones the better; of two unsafe ones None."""
    safe = [flag(row, f"is_response_{n}_safe") for n in (0, 1)]
    if not any(safe):
        return None
    kept = {name: row.values.get(name) for name in (*REQUESTS, "group")}
    if all(safe):
        best = row.values.get("better_response_id", row.values.get("safer_response_id", 0))
        if str(best) not in ("0", "1"):
            raise UserError(f"{row.where}: field 'better_response_id': expected 0 or 1, but found {best!r:.40}")
        return Row(row.where, {**kept, "response": row.values[f"response_{best}"]})
    chosen = safe.index(True)
    answers = {"chosen": row.values[f"response_{chosen}"], "rejected": row.values[f"response_{1 - chosen}"]}
    return Row(row.where, {**kept, **answers})
