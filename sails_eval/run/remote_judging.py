"""A judge behind an endpoint, at work while answers are still being made."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self, get_args

from sails_eval.core.progress import Bar
from sails_eval.core.records import Verdict
from sails_eval.judges.base import Judge, JudgedKind
from sails_eval.judges.stage import JudgedFile, judge_files
from sails_eval.judges.usage import Meter
from sails_eval.run.stages import JudgeJob


class RemoteJudging:
    """Judges files in a thread of its own, as they are handed in; `with` waits for the last one.

    All files that wait are judged together, so that the judge's concurrency is used however short they are.
    """

    def __init__(self, judge: Judge, usage: Path, bar: Bar) -> None:
        """`bar` counts the files, `usage` is the file that counts what the judge uses."""
        self._judge, self._meter, self._bar = judge, Meter(judge, usage), bar
        self._jobs: SimpleQueue[Sequence[JudgeJob] | None] = SimpleQueue()  # None: no more will come
        self._ended = False
        self._given_up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)  # no exit has to wait for an endpoint

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Raises what stopped the judge; where something else went wrong, doesn't wait for it."""
        self._jobs.put(None)
        if error is not None:
            self._given_up.set()
            return
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def add(self, jobs: Sequence[JudgeJob]) -> None:
        """Hand in finished files. Raises what has stopped the judge in the meantime."""
        if self._failure is not None:
            raise self._failure
        self._jobs.put(jobs)

    def _work(self) -> None:
        try:
            while jobs := self._waiting():
                for kind in get_args(JudgedKind):
                    files = [JudgedFile(job.completions, job.verdicts) for job in jobs if job.task.kind == kind]
                    try:
                        judge_files(self._judge, kind, files, self._heard)
                    finally:
                        self._meter.note()
                    self._bar.update(len(files))
        except BaseException as error:
            self._failure = error

    def _waiting(self) -> list[JudgeJob]:
        """All jobs that wait, once there are any; none at the end."""
        jobs: list[JudgeJob] = []
        while not self._ended and not (jobs and self._jobs.empty()):
            more = self._jobs.get()
            self._ended = more is None
            jobs += more or []
        return jobs

    def _heard(self, verdict: Verdict) -> None:
        if self._given_up.is_set():
            raise InterruptedError("the run has stopped")
        self._meter.tick()
