"""What a person sees on stderr while work goes on: lines, bars where that is a terminal, and what workers tell.

Where stderr is no terminal, a bar is a plain line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sails_eval.core.escape import one_line, visible

if TYPE_CHECKING:
    from rich.progress import Progress

PLAIN_EVERY = 60.0
"""Seconds between the lines of a bar where stderr is no terminal."""


@dataclass(frozen=True)
class Step:
    """One optimiser step of a cell is done; `tokens_per_second` counts those of prompts and answers, since the cell's
    first step."""

    cell: str
    step: int
    steps: int
    loss: float
    tokens_per_second: float


@dataclass(frozen=True)
class Done:
    """Units of a kind of work (`training`: cells; `answers` and `verdicts`: prompts) that are done, and the seconds
    they took."""

    kind: str
    units: int
    seconds: float


Event = Step | Done
Hear = Callable[[Event], object]


_listeners: list[Hear] = []


def listen(listener: Hear) -> None:
    """Have `tell` in this process call the listener from now on."""
    _listeners.append(listener)


@contextmanager
def heard(listener: Hear) -> Iterator[None]:
    """As `listen`, while the block lasts."""
    listen(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(event: Event) -> None:
    """Say how far the work of this process, or of its workers, is, to whoever listens."""
    for listener in tuple(_listeners):
        listener(event)


def say(text: str, *, quiet: bool = False) -> None:
    """Print a line on stderr, at once."""
    if not quiet:
        print(visible(text), file=sys.stderr, flush=True)


class Bar:
    """Counts what is done of a total; this one shows nothing."""

    def update(self, n: float = 1, *, note: str | None = None) -> None:
        """So many more are done; a `note` stands behind the bar until the next one."""


@contextmanager
def bar(title: str, total: float, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar while the block lasts; none where there is nothing to count."""
    title = one_line(title)
    if quiet or not total:
        yield Bar()
    elif sys.stderr.isatty():
        with _live(title, total) as drawn:
            yield drawn
    else:
        plain = PlainBar(title, total)
        yield plain
        plain.close()


class PlainBar(Bar):
    """A line each minute, and at the end."""

    def __init__(self, title: str, total: float) -> None:
        self._title, self._total, self._done, self._note = title, total, 0.0, ""
        self._began = time.monotonic()
        self._told, self._at = 0.0, self._began

    def update(self, n: float = 1, *, note: str | None = None) -> None:
        self.count(n)
        self._note = self._note if note is None else note
        if time.monotonic() - self._at >= PLAIN_EVERY:
            self._tell()

    def count(self, n: float) -> None:
        """As `update`, without a word."""
        self._done += n

    def close(self) -> None:
        if self._told != self._done:
            self._tell()

    def _tell(self) -> None:
        self._told, self._at = self._done, time.monotonic()
        seconds = f"{self._at - self._began:.0f} s"
        say(", ".join(filter(None, [f"{self._title}: {self._done:.0f}/{self._total:.0f}", seconds, self._note])))


class _Drawn(Bar):
    """A bar of the terminal's display, which all bars of this process share; at its end, a line is left of it."""

    def __init__(self, progress: Progress, task: Any, told: PlainBar) -> None:
        self._progress, self._task, self._told = progress, task, told

    def update(self, n: float = 1, *, note: str | None = None) -> None:
        self._told.count(n)
        fields: dict[str, Any] = {} if note is None else {"note": one_line(note)}
        self._progress.update(self._task, advance=n, **fields)


_display: list[Progress] = []
"""The display, while there are bars; two at a time would overwrite each other."""


@contextmanager
def _live(title: str, total: float) -> Iterator[Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    first = not _display
    if first:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(12), MofNCompleteColumn())
        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        note = TextColumn("{task.fields[note]}", markup=False, table_column=rest)
        console = Console(stderr=True)
        _display.append(Progress(*columns, note, console=console, refresh_per_second=2, expand=True))
        _display[0].start()
    progress = _display[0]
    task = progress.add_task(title, total=total, note="")
    told = PlainBar(title, total)
    try:
        yield _Drawn(progress, task, told)
        told.close()
    finally:
        progress.remove_task(task)
        if first:
            _display.pop().stop()
