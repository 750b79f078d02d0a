"""Prompts that stand in more than one of training, contrast, validation and test data, exactly or nearly.

Texts are compared as sets of three-word shingles, by the MinHash index of the package datasketch.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sails_eval.core.errors import UserError

NEAR = 0.8
"""Jaccard similarity of shingles from which on two prompts are near duplicates, as MinHash estimates it."""

REFUSED = 0.05
"""The share of a task's prompts that may stand in training or contrast data; above it a comparison is refused."""

PERMUTATIONS = 128


class Overlap(NamedTuple):
    """A prompt of `where` that one of `other` equals, or nearly does; both by number, from 1 on."""

    where: str
    number: int
    other: str
    other_number: int
    exact: bool

    def __str__(self) -> str:
        return (
            f"{self.where}: prompt {self.number} is {'also' if self.exact else 'nearly'} in {self.other} "
            f"(prompt {self.other_number})"
        )


def find_overlaps(asked: Mapping[str, Iterable[str]], seen: Mapping[str, Iterable[str]]) -> list[Overlap]:
    """For every prompt of `asked` the first equal one of each set of `seen`, or failing that a near one.

    Case, punctuation and spaces don't count.
    """
    from datasketch import MinHash, MinHashLSH

    def sketch(text: str) -> MinHash:
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([shingle.encode() for shingle in sorted(_shingles(text))])
        return made

    questions = [
        (where, number, words, sketch(words))
        for where, prompts in asked.items()
        for number, prompt in enumerate(prompts, start=1)
        if (words := _normal(prompt))
    ]
    found = []
    for other, texts in seen.items():
        first: dict[str, int] = {}
        for number, text in enumerate(texts, start=1):
            first.setdefault(_normal(text), number)
        index = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS)
        sketches = {number: sketch(words) for words, number in first.items() if words}
        for number, made in sketches.items():
            index.insert(number, made)
        for where, number, words, made in questions:
            if words in first:
                found.append(Overlap(where, number, other, first[words], exact=True))
            elif near := [key for key in sorted(index.query(made)) if sketches[key].jaccard(made) >= NEAR]:
                found.append(Overlap(where, number, other, near[0], exact=False))
    return found


def check_overlaps(
    asked: Mapping[str, list[str]], seen: Mapping[str, list[str]], *, allowed: bool = False
) -> list[str]:
    """A line for every overlap, for the log.

    Raises UserError where more than `REFUSED` of a task's prompts stand in a training set, unless that is `allowed`.
    """
    found = find_overlaps(asked, seen)
    for where, prompts in asked.items():
        for other in seen:
            these = [overlap for overlap in found if (overlap.where, overlap.other) == (where, other)]
            if len(these) > REFUSED * len(prompts) and not allowed:
                exact = sum(overlap.exact for overlap in these)
                raise UserError(
                    f"{where}: {len(these)} of {len(prompts)} prompts are also in {other} ({exact} exactly), such as "
                    f"prompts {', '.join(str(overlap.number) for overlap in these[:5])}; remove them from {other}, or "
                    "give --allow-overlap"
                )
    return [str(overlap) for overlap in found]


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _shingles(words: str) -> set[str]:
    split = words.split()
    return {" ".join(split[i : i + 3]) for i in range(max(1, len(split) - 2))}
