"""Judging any file of answers, without the rest of the harness: rows in, one line of JSON per answer out."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field
from datetime import date
from glob import has_magic
from pathlib import Path
from typing import Any

from sails_eval.core.checksums import KEEP, check, listing, write_checked
from sails_eval.core.errors import UserError
from sails_eval.core.escape import one_line
from sails_eval.core.files import check_file, check_folder, jsonl_text, read_json, read_jsonl, remove, write_jsonl
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.progress import bar
from sails_eval.core.records import Completion, Verdict, read_verdicts
from sails_eval.core.version import __version__
from sails_eval.data.files import Row
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, Usage, check_reads, ignore
from sails_eval.judges.eval_logs import columns_of, nested, read_logged
from sails_eval.judges.stage import judge_file
from sails_eval.judges.usage import USAGE, Meter, read_usage, together, told


@dataclass(frozen=True)
class AnswerColumns:
    """What a file calls its columns; `doc.goal` is a column inside a column.

    Without a name for the ids they are in `id` if it has that, else row numbers.
    """

    prompt: str = "prompt"
    response: str = "response"
    id: str | None = None


@dataclass(frozen=True)
class Answer:
    """A request and its answer as a file has them; `id` is text or a whole number, `row` the row it comes from."""

    id: str | int
    prompt: str
    response: str
    row: Row = field(compare=False)

    @property
    def completion(self) -> Completion:
        """The answer as judges take it. Its id covers the texts: what was said of others is never taken for it."""
        identity, looped = digest([self.id, self.prompt, self.response]), self.row.values.get("looped") is True
        return Completion(identity, self.prompt, self.response, category="", looped=looped)


@dataclass(frozen=True)
class JudgedAnswers:
    """What `judge score` came to: how many answers, their labels, why others have none, and what it took in all.

    `agreement` says how far the members of a panel agree, or who decided how much in a cascade, `note` how a known log
    was read.
    """

    judge: str
    kind: JudgedKind
    answers: int
    labels: dict[str, int]
    unscored: dict[str, int]
    usage: dict[str, Usage] = field(default_factory=dict)
    agreement: str = ""
    note: str = ""

    def __str__(self) -> str:
        lacking = sum(self.unscored.values())
        labels = ", ".join(f"{count} {label}" for label, count in self.labels.items()) or "no label"
        said = f"{self.answers} answers to {self.kind} requests, judged by {self.judge}: {labels}; {lacking} unscored"
        reasons = [f"  {count} × {one_line(reason)}" for reason, count in self.unscored.items()]
        return "\n".join([said, *reasons, *filter(None, [self.note, self.agreement]), *told(self.usage)])


def read_answers(path: Path, columns: AnswerColumns) -> list[Answer]:
    """The answers in a JSONL, JSON, CSV (each also .gz) or Parquet file, or in a log of lm_eval or Inspect.

    Raises UserError naming file, row and column: a column is missing, a text is not text, an id appears twice.
    """
    rows = read_logged(path, columns.prompt)
    if not rows:
        raise UserError(f"{path}: no rows")
    id_column = columns.id or ("id" if any("id" in row.values for row in rows) else None)
    answers = [
        Answer(
            _id(row, id_column) if id_column else number,
            text_in(row, columns.prompt, "--prompt-column"),
            text_in(row, columns.response, "--response-column"),
            row,
        )
        for number, row in enumerate(rows, start=1)
    ]
    counts = Counter(str(answer.id) for answer in answers)
    if twice := [id for id, count in counts.items() if count > 1]:
        shown = ", ".join(twice[:5]) + (", …" if len(twice) > 5 else "")
        raise UserError(f"{path}: {len(twice)} ids appear more than once ({shown}); make column '{id_column}' unique")
    return answers


def value_in(row: Row, column: str, flag: str) -> Any:
    """A row's value in a column. Raises UserError, with the flag that names another column, where it has none."""
    value = nested(row.values, column, MISSING)
    if value is MISSING:
        found = ", ".join(columns_of(row.values)) or "none"
        raise UserError(f"{row.where}: no column '{column}'; name it with {flag} (found: {found})")
    return value


def text_in(row: Row, column: str, flag: str) -> str:
    """A row's text in a column. Raises UserError where there is none."""
    value = value_in(row, column, flag)
    if value is None:
        raise UserError(f"{row.where}: column '{column}' holds null; leave the row out, or give \"\" for an empty text")
    if not isinstance(value, str):
        raise UserError(f"{row.where}: column '{column}' holds {json.dumps(value)[:40]}, not text; quote it")
    return value


def _id(row: Row, column: str) -> str | int:
    value = value_in(row, column, "--id-column")
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UserError(f"{row.where}: column '{column}' holds {json.dumps(value)[:40]}, not a text or whole number")
    return value


def sources_of(files: Sequence[str], out: Path) -> dict[Path, Path]:
    """Which files to judge, patterns resolved, and where the verdicts on each go: to `out`, or to files in it where
    there are several or a pattern.

    Raises UserError where a pattern matches nothing, or two files have one name.
    """
    if len(files) == 1 and not _is_pattern(files[0]):
        check_file(out)
        return {Path(files[0]): out}
    check_folder(out)
    found: dict[Path, Path] = {}
    for name in files:
        for path in _matched(name) if _is_pattern(name) else [Path(name)]:
            target = out / (path.name if path.suffix == ".jsonl" else f"{path.name}.jsonl")
            if other := next((one for one, taken in found.items() if taken == target and one != path), None):
                raise UserError(
                    f"{path}: has the name of {other}, so both would be written to {target}; judge one with another "
                    "--out"
                )
            found[path] = target
    return found


def _is_pattern(name: str) -> bool:
    return has_magic(name) and not Path(name).exists()


def _matched(pattern: str) -> list[Path]:
    root = Path(Path(pattern).anchor)
    found = sorted(path for path in root.glob(str(Path(pattern).relative_to(root))) if path.is_file())
    if not found:
        raise UserError(f"{pattern}: no file matches this pattern; correct it, or give files")
    return found


def score_file(
    source: Path, out: Path, *, judge: str, kind: JudgedKind, columns: AnswerColumns, quiet: bool = False
) -> JudgedAnswers:
    """The same as `score_files`, for one file."""
    [(_, judged)] = score_files({source: out}, judge=judge, kind=kind, columns=columns, quiet=quiet)
    return judged


def score_files(
    files: Mapping[Path, Path], *, judge: str, kind: JudgedKind, columns: AnswerColumns, quiet: bool = False
) -> Iterator[tuple[Path, JudgedAnswers]]:
    """Judge the answers in files and write a line for each to the files that these map to, in their order.

    A line has id, prompt, response, score, label and unscored (null, or the reason). `<out>.meta.json` says who
    judged what, `<out>.raw.jsonl` what an unscored reply said and how the members of a panel or cascade voted, where
    there is any. An `out` of the same judge that holds no other answers is resumed: what it has is kept, and only what
    has no verdict is asked for again. Raises UserError for any other `out` and for faulty rows, before anything is
    judged, and where the judge cannot work; what was judged until then is kept for the next try.
    """
    answers = {source: read_answers(source, columns) for source in files}
    asked = load_judge(judge)
    check_reads(asked, kind)
    sheets = [
        _Sheet(source, out, answers[source], *_known(out, asked, kind, answers[source]))
        for source, out in files.items()
    ]
    asked.check()
    for sheet in sheets:
        yield sheet.source, _score(sheet, asked, kind, quiet=quiet)


@dataclass(frozen=True)
class _Sheet:
    """A file at work: its answers, the verdicts that `out` has already, and what they took."""

    source: Path
    out: Path
    answers: Sequence[Answer]
    known: Sequence[Verdict]
    used: dict[str, Usage]


def _score(sheet: _Sheet, asked: Judge, kind: JudgedKind, *, quiet: bool) -> JudgedAnswers:
    """Judge a file's answers and write what was said to its `out`, with what lies beside that."""
    out, answers = sheet.out, sheet.answers
    state = out.with_name(f".{out.name}.judging-{digest([asked.fingerprint, kind])[:8]}")
    verdicts = ask(asked, kind, answers, state=state, known=sheet.known, quiet=quiet)
    labels: dict[str, int] = dict(Counter(verdict.label for verdict in verdicts if verdict.label).most_common())
    reasons = dict(Counter(verdict.unscored for verdict in verdicts if verdict.unscored is not None).most_common())
    usage = together([sheet.used, read_usage(state / USAGE)])
    members, note = asked.among_members({kind: verdicts}), answers[0].row.note
    judged = JudgedAnswers(asked.name, kind, len(answers), labels, reasons, usage, members, note)
    about = {"source": sheet.source.name, "sha256": of_path(sheet.source), "fingerprint": asked.fingerprint}
    about |= {"date": date.today().isoformat(), "version": __version__}
    meta, raw = _beside(out)
    # before the lines, so that a kill between the two leaves none of unknown origin
    write_checked(meta, json.dumps({**asdict(judged), **about}, indent=1, ensure_ascii=False) + "\n")
    judged_answers = list(zip(answers, verdicts, strict=True))
    # what a line has no field for
    if behind := [{"id": a.id, "raw": v.raw, "votes": v.votes} for a, v in judged_answers if v.raw or v.votes]:
        write_checked(raw, jsonl_text(behind), private=True)
    else:
        remove(raw)
        remove(listing(raw))
    write_checked(out, jsonl_text(_line(*pair) for pair in judged_answers), private=True)
    shutil.rmtree(state)
    return judged


def ask(
    judge: Judge,
    kind: JudgedKind,
    answers: Sequence[Answer],
    *,
    state: Path,
    known: Sequence[Verdict] = (),
    quiet: bool = False,
) -> list[Verdict]:
    """The verdicts on the answers, in their order, with a progress bar.

    `state` is a folder in which the judging goes on after a kill, and where what it took is counted; the caller
    deletes it once both are kept elsewhere. `known` are verdicts that there are already.
    """
    completions, verdicts = state / "completions.jsonl", state / "verdicts.jsonl"
    write_jsonl(completions, (answer.completion for answer in answers), private=True)
    if known and not verdicts.exists():
        write_jsonl(verdicts, known, private=True)
    judge_file(Watched(judge, state / USAGE, quiet=quiet), kind, completions, verdicts)
    return read_verdicts(verdicts)


class Watched(Judge):
    """A judge with a progress bar, whose usage is added to a file; its verdicts are the judge's own."""

    def __init__(self, judge: Judge, usage: Path, *, title: str | None = None, quiet: bool) -> None:
        self._judge, self._meter, self._title, self._quiet = judge, Meter(judge, usage), title or judge.name, quiet
        self.name, self.kinds, self.parallel, self.hosted = judge.name, judge.kinds, judge.parallel, judge.hosted

    @property
    def fingerprint(self) -> str:
        return self._judge.fingerprint

    def check(self) -> None:
        self._judge.check()

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        def seen(verdict: Verdict) -> None:
            on_verdict(verdict)
            judged.update()
            self._meter.tick()

        try:
            with bar(self._title, len(completions), quiet=self._quiet) as judged:
                return self._judge.judge(kind, completions, seen)
        finally:
            self._meter.note()


def _line(answer: Answer, verdict: Verdict) -> dict[str, Any]:
    texts = {"id": answer.id, "prompt": answer.prompt, "response": answer.response}
    return {**texts, "score": verdict.score, "label": verdict.label, "unscored": verdict.unscored}


def _beside(out: Path) -> tuple[Path, Path]:
    return out.with_name(f"{out.name}.meta.json"), out.with_name(f"{out.name}.raw.jsonl")


def _known(
    out: Path, judge: Judge, kind: JudgedKind, answers: Sequence[Answer]
) -> tuple[list[Verdict], dict[str, Usage]]:
    """The verdicts that `out` has already, and what they took.

    Raises UserError where writing it would lose something else.
    """
    if not out.exists():
        return [], {}
    meta, raw = _beside(out)
    if not meta.is_file():
        raise UserError(f"{out}: exists, and was not made by 'judge score'; give another --out or move it away")
    for path in (meta, raw, out):
        check(path, KEEP)
    about = read_json(meta)
    if missing := {"judge", "fingerprint", "kind", "usage"} - about.keys():
        raise UserError(f"{meta}: no key '{min(missing)}', so it is not as 'judge score' writes it; {KEEP}")
    if (about["fingerprint"], about["kind"]) != (judge.fingerprint, kind):
        was = f"{about['judge']} ({about['fingerprint']}, {about['kind']})"
        now = f"{judge.name} ({judge.fingerprint}, {kind})"
        raise UserError(f"{out}: has verdicts of {was}, not of {now}; give another --out or move it away")
    wanted = {answer.completion.id for answer in answers}
    behind = {row["id"]: row for row in (read_jsonl(raw) if raw.exists() else ())}
    known = []
    for line in read_jsonl(out):
        id = digest([line["id"], line["prompt"], line["response"]])
        if id not in wanted:
            raise UserError(
                f"{out}: has an answer with id '{line['id']}' that is not in the file to judge; give another --out "
                "or move it away"
            )
        more = behind.get(line["id"], {})
        known.append(Verdict(id, line["label"], line["score"], line["unscored"], more.get("raw"), more.get("votes")))
    return known, {name: Usage(**used) for name, used in about["usage"].items()}
