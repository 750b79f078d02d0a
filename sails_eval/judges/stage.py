"""The judging stage: files of completions in, files of verdicts out, and nothing asked twice on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore, is_transient
from sails_eval.judges.cache import judge_cached
from sails_eval.records import Completion, Verdict, read_completions, read_verdicts, write_jsonl


@dataclass(frozen=True)
class JudgedFile:
    """Where completions lie, and where the verdicts on them go.

    Verdicts are matched by completion id alone: the caller names `verdicts` after the judge's fingerprint and keeps it
    beside its completions.
    """

    completions: Path
    verdicts: Path


def judge_file(judge: Judge, kind: JudgedKind, completions: Path, verdicts: Path) -> int:
    """Write the verdicts on all completions, in their order, and return how many are unscored.

    Nothing is asked twice: a file that covers the completions stays as it is, except that verdicts which are missing
    for a transient reason are asked for again. A judge that isn't `parallel` has its scored verdicts kept in the cache
    as they arrive; after a kill, or after the UserError with which it stopped, they come from there. A `parallel` one
    always judges the whole file, so that its batches, and with them the last bit of its numbers, stay the same.
    """
    file = JudgedFile(completions, verdicts)
    if not judge.parallel:
        return judge_files(judge, kind, [file])
    sheet = _Sheet.read(file)
    if not sheet.finished:
        sheet.known = {verdict.id: verdict for verdict in judge.judge(kind, sheet.asked)}
        sheet.write()
    return sheet.unscored


def judge_files(judge: Judge, kind: JudgedKind, files: Sequence[JudgedFile], on_verdict: OnVerdict = ignore) -> int:
    """The same for a judge that isn't `parallel`, which is asked about all the files at once.

    `on_verdict` is called with each new verdict. If the judge stops with an error, the files about which nothing is
    left to ask are written nevertheless.
    """
    sheets = [_Sheet.read(file) for file in files]
    open_ones = [sheet for sheet in sheets if not sheet.finished]
    asked = [(sheet, completion) for sheet in open_ones for completion in sheet.missing]

    def enter(verdict: Verdict) -> None:
        sheet, completion = asked[int(verdict.id)]
        sheet.known[completion.id] = replace(verdict, id=completion.id)
        on_verdict(verdict)

    try:  # ids are unique within a file only
        judge_cached(judge, kind, [replace(one, id=str(i)) for i, (_, one) in enumerate(asked)], enter)
    finally:
        for sheet in open_ones:
            if not sheet.missing:
                sheet.write()
    return sum(sheet.unscored for sheet in sheets)


@dataclass
class _Sheet:
    """A file at work: its completions, and by id the verdicts that need no asking."""

    file: JudgedFile
    asked: list[Completion]
    known: dict[str, Verdict]

    @classmethod
    def read(cls, file: JudgedFile) -> Self:
        verdicts = read_verdicts(file.verdicts) if file.verdicts.exists() else []
        settled = {verdict.id: verdict for verdict in verdicts if not is_transient(verdict)}
        return cls(file, read_completions(file.completions), settled)

    @property
    def missing(self) -> list[Completion]:
        return [completion for completion in self.asked if completion.id not in self.known]

    @property
    def finished(self) -> bool:
        return self.file.verdicts.exists() and not self.missing

    @property
    def unscored(self) -> int:
        return sum(self.known[completion.id].unscored is not None for completion in self.asked)

    def write(self) -> None:
        verdicts = [self.known[completion.id] for completion in self.asked]
        write_jsonl(self.file.verdicts, verdicts, private=True)
