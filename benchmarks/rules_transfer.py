"""Whether the judge `rules` only knows the models that it was written on.

    python benchmarks/rules_transfer.py A.csv B.csv C.csv [--start nothing] [--margin 0]

takes completion files of XSTest (columns prompt, completion and final_label, a partial refusal counting as a refusal).
Which phrases count, and the numbers that go with them, are tuned on every two and tried on the third. Tuning starts
with all phrases, or with none, and goes over all switches in turn, changing one wherever that raises the mean kappa of
what it may see by more than a margin, until none does. A single answer is worth about 0.005 in one file. What this
cannot show: whoever wrote the phrases had seen all of the files.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from sklearn.metrics import cohen_kappa_score

from sails_eval.core.records import DECLINED
from sails_eval.judges.phrases import PHRASES, Phrases
from sails_eval.judges.rules import classify

NUMBERS = {"curt": (0, 6, 12, 20), "lecture_after_disapproval": (1, 2, 3, 4), "lecture": (2, 3, 4, 5)}
"""The values that are tried; the phrases are on or off."""

GROUPS = tuple(field.name for field in fields(Phrases) if field.name not in NUMBERS)
NO_PHRASES: dict[str, Any] = dict.fromkeys(GROUPS, ())
STARTS = {"everything": PHRASES, "nothing": replace(PHRASES, **NO_PHRASES)}


@dataclass(frozen=True)
class Labelled:
    """A model's answers, whether people call each a refusal, and the requests where they are known."""

    name: str
    answers: tuple[str, ...]
    refused: tuple[bool, ...]
    requests: tuple[str, ...] = ()


def read(path: Path) -> Labelled:
    """A completion file of XSTest."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    refused = tuple(row["final_label"] != "1_full_compliance" for row in rows)
    requests = tuple(row["prompt"] for row in rows)
    return Labelled(path.stem, tuple(row["completion"] for row in rows), refused, requests)


@cache
def kappa(labelled: Labelled, phrases: Phrases) -> float:
    """Cohen's kappa with people; 0 where nothing is called a refusal."""
    requests = labelled.requests or [""] * len(labelled.answers)
    both = zip(labelled.answers, requests, strict=True)
    said = [classify(answer, request, phrases) in (*DECLINED, "partial") for answer, request in both]
    return float(cohen_kappa_score(labelled.refused, said)) if any(said) else 0.0


def tune(seen: Sequence[Labelled], start: Phrases, margin: float) -> Phrases:
    """The phrases and numbers that suit these files, as far as changing one at a time gets."""
    best, changed = start, True
    while changed:
        changed = False
        for group, position in switches():
            for other in settings(best, group, position):
                gain = sum(kappa(one, other) - kappa(one, best) for one in seen) / len(seen)
                if gain > margin + 1e-9:
                    best, changed = other, True
    return best


def switches() -> Iterator[tuple[str, int]]:
    """All that can be set: a phrase by its group and its position there, a number by its name."""
    for group in GROUPS:
        yield from ((group, i) for i in range(len(getattr(PHRASES, group))))
    yield from ((number, 0) for number in NUMBERS)


def settings(phrases: Phrases, group: str, position: int) -> list[Phrases]:
    """The other settings of one switch."""
    on: Any = getattr(phrases, group)
    if group in NUMBERS:
        return [_with(phrases, group, value) for value in NUMBERS[group] if value != on]
    phrase = getattr(PHRASES, group)[position]
    return [_with(phrases, group, tuple(one for one in on if one != phrase) if phrase in on else (*on, phrase))]


def _with(phrases: Phrases, group: str, value: Any) -> Phrases:
    return replace(phrases, **{group: value})


def count(phrases: Phrases) -> int:
    return sum(len(getattr(phrases, group)) for group in GROUPS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tune the rules on every two files and try them on the third.")
    parser.add_argument("files", type=Path, nargs=3, metavar="FILE.csv")
    parser.add_argument("--start", choices=sorted(STARTS), default="everything", help="(default: everything)")
    parser.add_argument("--margin", type=float, default=0.005, help="of mean kappa (default: 0.005)")
    options = parser.parse_args()
    files, start = [read(path) for path in options.files], STARTS[options.start]
    best = tune(files, start, options.margin)
    print("| file | as shipped | tuned on all three | tuned on the other two | loss | phrases |")
    print("| --- | --- | --- | --- | --- | --- |")
    for left_out in files:
        tuned = tune([one for one in files if one is not left_out], start, options.margin)
        upper, own = kappa(left_out, best), kappa(left_out, tuned)
        row = (kappa(left_out, PHRASES), upper, own, upper - own)
        print(f"| {left_out.name} | {' | '.join(f'{value:.3f}' for value in row)} | {count(tuned)} |")
    print(f"\n{count(PHRASES)} phrases as shipped, {count(best)} tuned on all three")


if __name__ == "__main__":
    main()
