"""The judging stage: a file of completions in, a file of verdicts out, and nothing lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore, is_transient
from sails_eval.records import Verdict, read_completions, read_verdicts, write_jsonl, write_text


def judge_file(judge: Judge, kind: JudgedKind, completions: Path, verdicts: Path) -> int:
    """Write the verdicts on all completions, in their order, and return how many are unscored.

    Nothing is asked twice: a file that covers the completions stays as it is, except that verdicts which are
    missing for a transient reason are asked for again. A judge that isn't `parallel` leaves its verdicts in
    `<verdicts>.part` as they arrive, and goes on from there after a kill or after the UserError with which it
    stopped. A `parallel` one always judges the whole file, so that its batches, and with them the last bit of
    its numbers, stay the same.

    Verdicts are matched by completion id alone: the caller names `verdicts` after the judge's fingerprint and
    keeps it beside its completions.
    """
    asked = read_completions(completions)
    part = verdicts.with_name(f"{verdicts.name}.part")
    known = {verdict.id: verdict for path in (verdicts, part) for verdict in _settled(path)}
    missing = [completion for completion in asked if completion.id not in known]
    if missing or not verdicts.exists():
        if judge.parallel:
            missing, known = asked, {}
            new = judge.judge(kind, missing, ignore)
        else:
            with _appending(part, known) as append:
                new = judge.judge(kind, missing, append)
        known |= {verdict.id: verdict for verdict in new}
        write_jsonl(verdicts, [known[completion.id] for completion in asked], private=True)
    part.unlink(missing_ok=True)
    return sum(known[completion.id].unscored is not None for completion in asked)


def _settled(path: Path) -> Iterator[Verdict]:
    """The verdicts in a file that need not be asked for again."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):  # killed while writing a line
        write_text(path, text[: text.rfind("\n") + 1], private=True)
    yield from (verdict for verdict in read_verdicts(path) if not is_transient(verdict))


@contextmanager
def _appending(path: Path, known: dict[str, Verdict]) -> Iterator[OnVerdict]:
    """Append verdicts to a file that starts with the known ones; every line is written at once."""
    write_jsonl(path, known.values(), private=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:

        def append(verdict: Verdict) -> None:
            file.write(json.dumps(asdict(verdict), ensure_ascii=False) + "\n")

        yield append
