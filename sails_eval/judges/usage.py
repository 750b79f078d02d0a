"""What asking a judge costs: requests, tokens and money."""

import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from sails_eval.core.schema import Record
from sails_eval.judges.base import Judge, Usage

log = logging.getLogger(__name__)

USAGE = "judge_usage.json"
"""What the judges of a run have used, in its folder; counting continues when the run is resumed."""


class Used(Record):
    """judge_usage.json: what judges have used since the folder was begun."""

    whole_in_0_1_0 = "judges"
    judges: dict[str, Usage] = Field(description="by the judge's name")


class Meter:
    """Adds what a judge uses to a file, every few seconds while it judges; nothing for one that counts nothing."""

    def __init__(self, judge: Judge, path: Path) -> None:
        self._judge, self._path = judge, path
        self._noted = time.monotonic()

    def tick(self) -> None:
        """To be called with every verdict."""
        if time.monotonic() - self._noted > 5:  # seconds: so much a kill can leave out of the count
            self.note()

    def note(self) -> None:
        """To be called at the end."""
        self._noted = time.monotonic()
        if (used := self._judge.take_usage()).requests:
            log.info("judge %s has used %s", self._judge.name, add_usage(self._path, self._judge.name, used))


def read_usage(path: Path) -> dict[str, Usage]:
    """What a file says, by the judge's name; empty where there is no such file yet."""
    return Used.read(path).judges if path.exists() else {}


def add_usage(path: Path, judge: str, usage: Usage) -> Usage:
    """Add to what a file says of a judge; the new total."""
    rows = together([read_usage(path), {judge: usage}])
    Used(judges=dict(sorted(rows.items()))).write(path)
    return rows[judge]


def together(several: Iterable[Mapping[str, Usage]]) -> dict[str, Usage]:
    """The sums by the judge's name."""
    total: dict[str, Usage] = {}
    for used in several:
        for judge, usage in used.items():
            total[judge] = total.get(judge, Usage()) + usage
    return total


def told(used: Mapping[str, Usage]) -> list[str]:
    """A line for each judge."""
    return [f"judge {judge} has used {usage}" for judge, usage in used.items()]
