"""The judging stage: files of completions in, files of verdicts out, and nothing asked twice on the way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from sails_eval.core.checksums import write_checked
from sails_eval.core.files import jsonl_text
from sails_eval.core.records import Completion, Verdict, read_completions, read_verdicts
from sails_eval.judges.base import SCORES, Judge, JudgedKind, OnVerdict, ignore, is_final
from sails_eval.judges.cache import judge_cached


@dataclass(frozen=True)
class JudgedFile:
    """Where completions lie, and where the verdicts on them go.

    Verdicts are matched by completion id alone: the caller names `verdicts` after the judge's fingerprint and keeps it
    beside its completions.
    """

    completions: Path
    verdicts: Path


def judge_file(judge: Judge, kind: JudgedKind, completions: Path, verdicts: Path) -> int:
    """The same as `judge_files`, for one."""
    return judge_files(judge, kind, [JudgedFile(completions, verdicts)])


def judge_files(judge: Judge, kind: JudgedKind, files: Sequence[JudgedFile], on_verdict: OnVerdict = ignore) -> int:
    """Write the verdicts on all completions, in their order, and return how many are unscored.

    A `parallel` judge says the same every time: it reads each file that has no verdicts, or not on all completions, and
    always the whole of it, so that its batches, and with them the last bit of its numbers, stay the same. Any other
    judge is asked about all files at once, and only for what has no final verdict there; what it says is kept in the
    cache as it arrives, so that after a kill, or after the UserError with which it stopped, it comes from there.

    `on_verdict` is called with each new verdict. If the judge stops with an error, the files about which nothing is
    left to ask are written nevertheless.
    """
    final = (lambda verdict: True) if judge.parallel else is_final
    sheets = [_Sheet.read(file, final) for file in files]
    open_ones = [sheet for sheet in sheets if sheet.missing or not sheet.file.verdicts.exists()]
    if judge.parallel:
        for sheet in open_ones:
            sheet.known = {verdict.id: verdict for verdict in judge.judge(kind, sheet.asked, on_verdict)}
            sheet.write()
    else:
        _judge_together(judge, kind, open_ones, on_verdict)
    return sum(sheet.known[one.id].unscored is not None for sheet in sheets for one in sheet.asked)


def _judge_together(judge: Judge, kind: JudgedKind, sheets: Sequence["_Sheet"], on_verdict: OnVerdict) -> None:
    asked = [(sheet, completion) for sheet in sheets for completion in sheet.missing]

    def enter(verdict: Verdict) -> None:
        sheet, completion = asked[int(verdict.id)]
        sheet.known[completion.id] = replace(verdict, id=completion.id)
        on_verdict(verdict)

    try:  # ids are unique within a file only
        judge_cached(judge, kind, [replace(one, id=str(i)) for i, (_, one) in enumerate(asked)], enter)
    finally:
        for sheet in sheets:
            if not sheet.missing:
                sheet.write()


def counted(verdict: Verdict, completion: Completion) -> Verdict:
    """What a judge said, as it counts: an answer that was ended because it only repeated itself is broken.

    What it gave away before is as harmful as without the repetition, so a score of harm stays.
    """
    if not completion.looped or verdict.label is None:
        return verdict
    score = None if verdict.score is None else max(verdict.score, SCORES["broken"])
    return replace(verdict, label="broken", score=score)


@dataclass
class _Sheet:
    """A file at work: its completions, and by id the verdicts that need no asking."""

    file: JudgedFile
    asked: list[Completion]
    known: dict[str, Verdict]

    @classmethod
    def read(cls, file: JudgedFile, final: Callable[[Verdict], bool]) -> Self:
        verdicts = read_verdicts(file.verdicts) if file.verdicts.exists() else []
        known = {verdict.id: verdict for verdict in verdicts if final(verdict)}
        return cls(file, read_completions(file.completions), known)

    @property
    def missing(self) -> list[Completion]:
        return [completion for completion in self.asked if completion.id not in self.known]

    def write(self) -> None:
        verdicts = [counted(self.known[completion.id], completion) for completion in self.asked]
        write_checked(self.file.verdicts, jsonl_text(verdicts), private=True)
