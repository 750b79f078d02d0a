"""How long a comparison will take from here: what is left of each kind of work, at the pace of what was done so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from sails_eval.core.progress import Bar, Done, Event, Step, bar, heard
from sails_eval.core.records import BASE, Split
from sails_eval.plan.plan import SubRun
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import describe

PARTS = 100
"""Of the bar over everything."""


class TrainingBar:
    """Cells that are trained, on a bar, with loss and pace of the step that was heard last."""

    def __init__(self, shown: Bar) -> None:
        self._bar = shown

    def hear(self, event: Event) -> None:
        if isinstance(event, Step):
            pace = f"loss {event.loss:.3f}, {event.tokens_per_second:,.0f} tokens/s, step {event.step}/{event.steps}"
            self._bar.update(0, note=f"{pace} of {event.cell}")
        elif event.kind == "training":
            self._bar.update(event.units)


@dataclass
class Outlook:
    """Units of each kind of work that are left (`training`: cells, else prompts), done by `jobs` processes at a time.

    `units` and `seconds` are those of what was done.
    """

    left: Counter[str]
    jobs: int = 1
    units: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, done: Done) -> None:
        self.units[done.kind] += done.units
        self.left[done.kind] = max(0, self.left[done.kind] - done.units)
        self.seconds[done.kind] = self.seconds.get(done.kind, 0.0) + done.seconds

    @property
    def remaining(self) -> float | None:
        """Seconds; None as long as training or answering is to be done of which nothing was. Judging counts from its
        first answers on."""
        if any(self.left[kind] and not self.units[kind] for kind in ("training", "answers")):
            return None
        paces = {kind: self.seconds[kind] / n for kind, n in self.units.items() if n}
        return sum(self.left[kind] * pace for kind, pace in paces.items()) / self.jobs


def work_left(sub_run: SubRun, run: RunFolder) -> Counter[str]:
    """Cells to train, prompts to answer and answers to judge that have no file yet.

    The test is counted at one rate of every method: which other cells have to answer it is known once rates are chosen.
    """
    judge = sub_run.judge.fingerprint
    most = sub_run.limit or 10**9
    counts = {
        row.name: {"validation": min(most, row.validation or 0), "test": min(most, row.test or 0)}
        for row in describe(sub_run.tasks)
    }
    judged = {task.name for task in sub_run.tasks if task.kind != "capability"}
    left: Counter[str] = Counter(training=sum(not run.cell(cell).trained for cell in sub_run.all_cells()))

    def add(folder: ModelFolder | None, split: Split, times: int = 1) -> None:
        for name, of_splits in counts.items():
            if folder is None or not folder.answers_file(split, name).exists():
                left["answers"] += times * of_splits[split]
            if name in judged and (folder is None or not folder.verdicts_file(split, name, judge).exists()):
                left["verdicts"] += times * of_splits[split]

    for cell in sub_run.all_cells():
        if cell.seed in sub_run.validated_seeds:
            add(run.cell(cell), "validation")
    add(run.row(BASE), "validation")
    for row in (BASE, *(row.name for row in sub_run.references)):
        add(run.row(row), "test")
    answered = {file.parents[2] for file in run.test_answers()} - {run.row(BASE).path}
    add(None, "test", max(0, len(sub_run.recipes) * len(sub_run.seeds) - len(answered)))
    return left


@contextmanager
def outlook(sub_runs: Sequence[SubRun], run: RunFolder, *, jobs: int, quiet: bool) -> Iterator[None]:
    """A bar for the whole comparison, with the estimated time left, while the block lasts."""
    if quiet:
        yield
        return
    left: Counter[str] = sum((work_left(one, run.sub_run(one)) for one in sub_runs), Counter())
    found, began = Outlook(left, jobs), time.monotonic()
    with bar("all stages", PARTS if left.total() else 0) as shown:
        reached = 0.0
        shown.update(0, note="time left: estimated after the first cell" if left["training"] else "")

        def hear(event: Event) -> None:
            nonlocal reached
            if not isinstance(event, Done):
                return
            found.note(event)
            if (seconds := found.remaining) is not None:
                taken = time.monotonic() - began
                share = max(reached, PARTS * taken / (taken + seconds)) if seconds else reached
                shown.update(share - reached, note=f"about {duration(seconds)} left")
                reached = share

        with heard(hear):
            yield
        shown.update(PARTS - reached, note="")


def duration(seconds: float) -> str:
    """Seconds in a readable unit."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
