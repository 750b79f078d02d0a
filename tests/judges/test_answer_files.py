"""Judging any file: rows in, lines out; what is wrong is named, what is judged is kept."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.files import read_jsonl
from sails_eval.core.records import Completion, Label, Verdict
from sails_eval.judges import answer_files as judging
from sails_eval.judges.answer_files import AnswerColumns, JudgedAnswers, read_answers, score_file
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, Usage, ignore
from sails_eval.judges.panel import Panel

ROWS: list[dict[str, Any]] = [
    {"id": "a", "prompt": "request one", "response": "I cannot help with that."},
    {"id": 7, "prompt": "request two", "response": "Here is how: a placeholder."},
    {"id": "c", "prompt": "request three", "response": ""},
]


DOWN = "no reply: timed out"


class Remote(Judge):
    """A judge that is asked one by one, is out of reach for answers in `down`, and stops at `stop`."""

    name, fingerprint, parallel = "remote", "f1", False

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down: set[str] = set()
        self.stop: str | None = None
        self.say: dict[str, Verdict] = {}

    def judge(self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore) -> Any:
        verdicts = []
        for one in completions:
            if one.prompt == self.stop:
                raise UserError("the quota is used up")
            self.asked.append(one.prompt)
            lost = one.prompt in self.down
            said = Verdict(one.id, None if lost else "refusal", None if lost else 1, DOWN if lost else None)
            verdicts.append(replace(self.say.get(one.prompt, said), id=one.id))
            on_verdict(verdicts[-1])
        return verdicts


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Remote:
    judge = Remote()
    monkeypatch.setattr(judging, "load_judge", lambda spec: judge)
    return judge


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score(source: Path, out: Path, *, kind: JudgedKind = "harmful", judge: str = "rules") -> JudgedAnswers:
    return score_file(source, out, judge=judge, kind=kind, columns=AnswerColumns(), quiet=True)


def test_every_answer_gets_a_line_with_exactly_these_fields(tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores.jsonl"
    told = score(write(tmp_path / "answers.jsonl", ROWS), out)
    lines = list(read_jsonl(out))
    assert [list(line) for line in lines] == [["id", "prompt", "response", "score", "label", "unscored"]] * 3
    assert [(line["id"], line["score"], line["label"]) for line in lines] == [
        ("a", 1, "refusal"),
        (7, 5, "compliance"),
        ("c", 2, "broken"),
    ]
    assert all(line["unscored"] is None for line in lines)
    assert str(told).startswith("3 answers to harmful requests, judged by rules: 1 refusal, 1 compliance, 1 broken; 0")
    there = sorted(path.name for path in out.parent.iterdir() if path.name[0] != ".")
    assert there == ["scores.jsonl", "scores.jsonl.meta.json"]
    assert out.stat().st_mode & 0o777 == 0o600


def test_csv_and_gz_without_ids_are_numbered_and_safe_requests_have_no_score(tmp_path: Path) -> None:
    source = tmp_path / "answers.csv.gz"
    with gzip.open(source, "wt", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "response"])
        writer.writeheader()
        writer.writerows({"prompt": row["prompt"], "response": row["response"]} for row in ROWS)
    score(source, tmp_path / "out.jsonl", kind="safe")
    assert [(line["id"], line["score"]) for line in read_jsonl(tmp_path / "out.jsonl")] == [
        (n, None) for n in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (
            [{"prompt": "a"}],
            {},
            r"answers.jsonl:1: no column 'response'; name it with --response-column \(found: prompt",
        ),
        ([ROWS[0], {"id": "b", "prompt": "x"}], {}, "answers.jsonl:2: no column 'response'"),
        ([{"prompt": "a", "response": None}], {}, "answers.jsonl:1: column 'response' holds null; leave the row out"),
        ([{"prompt": 5, "response": "a"}], {}, "answers.jsonl:1: column 'prompt' holds 5, not text"),
        ([ROWS[0], ROWS[1], ROWS[0]], {}, r"answers.jsonl: 1 ids appear more than once \(a\)"),
        ([{"id": 1.5, "prompt": "a", "response": "b"}], {}, "answers.jsonl:1: column 'id' holds 1.5"),
        ([{"prompt": "a", "response": "b"}, ROWS[0]], {}, "answers.jsonl:1: no column 'id'"),
        ([ROWS[0]], {"id": "key"}, "answers.jsonl:1: no column 'key'; name it with --id-column"),
        ([ROWS[0]], {"prompt": "goal"}, "answers.jsonl:1: no column 'goal'; name it with --prompt-column"),
        ([], {}, "answers.jsonl: no rows"),
    ],
)
def test_faulty_rows_are_named(rows: list[Any], columns: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        read_answers(write(tmp_path / "answers.jsonl", rows), AnswerColumns(**columns))


def test_ids_may_repeat_as_texts_do_not(tmp_path: Path) -> None:
    rows = [{"id": n, "prompt": "same", "response": "same"} for n in range(3)]
    assert score(write(tmp_path / "answers.jsonl", rows), tmp_path / "out.jsonl").answers == 3


def test_what_got_no_reply_is_asked_again_and_nothing_else(tmp_path: Path, remote: Remote) -> None:
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    remote.down = {"request two"}
    assert score(source, out).unscored == {DOWN: 1}
    remote.down, remote.asked = set(), []
    assert score(source, out).unscored == {}
    assert remote.asked == ["request two"]
    assert [line["label"] for line in read_jsonl(out)] == ["refusal"] * 3


def test_half_a_letter_is_replaced(tmp_path: Path) -> None:
    source, out = tmp_path / "answers.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "q", "response": "half \\ud83d of it"}\n')
    assert score(source, out).answers == 1
    assert [line["response"] for line in read_jsonl(out)] == ["half \ufffd of it"]
    assert score(source, out).answers == 1


def test_a_reply_that_could_not_be_read_is_kept_beside_the_lines(tmp_path: Path, remote: Remote) -> None:
    remote.say = {"request two": Verdict("", unscored="?", raw="hm")}
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    score(source, out)
    assert list(read_jsonl(tmp_path / "out.jsonl.raw.jsonl")) == [{"id": 7, "raw": "hm", "votes": None}]
    remote.say = {}
    score(source, out)
    assert remote.asked[3:] == ["request two"] and not (tmp_path / "out.jsonl.raw.jsonl").exists()


def test_new_answers_are_added_to_those_judged(tmp_path: Path, remote: Remote) -> None:
    source, out = tmp_path / "answers.jsonl", tmp_path / "out.jsonl"
    score(write(source, ROWS[:2]), out)
    remote.asked = []
    score(write(source, [ROWS[2], *ROWS[:2]]), out)
    assert remote.asked == ["request three"]
    assert [line["id"] for line in read_jsonl(out)] == ["c", "a", 7]


def test_a_judge_that_stops_is_gone_on_with(tmp_path: Path, remote: Remote) -> None:
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    remote.stop = "request three"
    with pytest.raises(UserError, match="quota"):
        score(source, out)
    assert not out.exists()
    remote.stop, remote.asked = None, []
    score(source, out)
    assert remote.asked == ["request three"]


def test_an_answer_that_changed_is_never_taken_for_the_old_one(tmp_path: Path, remote: Remote) -> None:
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    remote.stop = "request three"
    with pytest.raises(UserError):
        score(source, out)
    remote.stop, remote.asked = None, []
    score(write(source, [{**ROWS[0], "response": "another"}, *ROWS[1:]]), out)
    assert sorted(remote.asked) == ["request one", "request three"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.meta.json"])
@pytest.mark.parametrize("change", [(b"refusal", b"compliance"), (b'"', b""), (b"s", b"\xff"), (b"}", b"")])
def test_verdicts_that_were_changed_are_never_taken_for_the_judges(
    tmp_path: Path, name: str, change: tuple[bytes, bytes]
) -> None:
    source, out, file = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl", tmp_path / name
    score(source, out)
    file.write_bytes(file.read_bytes().replace(*change))
    before = out.read_bytes()
    with pytest.raises(UserError, match=f"{name}: changed or damaged since it was written .*give another --out"):
        score(source, out)
    assert out.read_bytes() == before


def test_other_peoples_files_are_not_overwritten(tmp_path: Path, remote: Remote) -> None:
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="was not made by 'judge score'"):
        score(source, source)
    score(source, out)
    with pytest.raises(UserError, match=r"has verdicts of remote \(f1, harmful\), not of remote \(f1, safe\)"):
        score(source, out, kind="safe")
    with pytest.raises(UserError, match="has an answer with id 'a' that is not in the file to judge"):
        score(write(tmp_path / "fewer.jsonl", ROWS[1:]), out)
    assert len(list(read_jsonl(out))) == 3


# --- what has no field in a line ------------------------------------------------------------------


class Voter(Remote):
    """One of several, whose name is its verdict; it counts what it uses, and keeps what it said in vain."""

    def __init__(self, name: Label, fingerprint: str) -> None:
        super().__init__()
        self.name, self.says, self.fingerprint, self.used = name, name, fingerprint, Usage()

    def take_usage(self) -> Usage:
        used, self.used = self.used, Usage()
        return used

    def judge(self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore) -> Any:
        self.asked += [one.prompt for one in completions]
        self.used += Usage(len(completions), 10 * len(completions), len(completions))
        down = {one.id for one in completions if one.prompt in self.down}
        verdicts = [
            Verdict(one.id, unscored=DOWN, raw="hm") if one.id in down else Verdict(one.id, self.says, 1)
            for one in completions
        ]
        for verdict in verdicts:
            on_verdict(verdict)
        return verdicts


def test_votes_and_unreadable_replies_lie_beside_the_lines_and_a_member_that_failed_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    members = [Voter("refusal", "f1"), Voter("refusal", "f2"), Voter("partial", "f3")]
    monkeypatch.setattr(judging, "load_judge", lambda spec: Panel(members))
    members[2].down = {"request two"}
    told = score(source, out)
    assert told.labels == {"refusal": 3} and [len(one.asked) for one in members] == [3, 3, 3]
    replies = {row["id"]: row for row in read_jsonl(tmp_path / "out.jsonl.raw.jsonl")}
    assert [vote["label"] for vote in replies["a"]["votes"]] == ["refusal", "refusal", "partial"]
    assert replies[7]["votes"][2] == {"judge": "partial", "label": None, "score": None, "unscored": DOWN, "raw": "hm"}
    assert told.agreement and told.agreement in str(told)
    members[2].down = set()
    again = score(source, out)
    assert [one.asked[3:] for one in members] == [[], [], ["request two"]]
    replies = {row["id"]: row for row in read_jsonl(tmp_path / "out.jsonl.raw.jsonl")}
    assert replies[7]["votes"][2]["label"] == "partial"
    name = "panel(refusal, refusal, partial)"
    assert (told.usage, again.usage) == ({name: Usage(9, 90, 9)}, {name: Usage(10, 100, 10)})
    assert f"judge {name} has used 10 requests, 100 + 10 tokens" in str(again)
    assert json.loads((tmp_path / "out.jsonl.meta.json").read_text())["usage"][name]["requests"] == 10
    score(source, out)
    assert sum(len(one.asked) for one in members) == 10


def test_what_was_used_before_a_stop_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(Voter):
        def judge(self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore) -> Any:
            before = [one for one in completions if one.prompt != self.stop]
            verdicts = super().judge(kind, before, on_verdict)
            if len(before) < len(completions):
                raise UserError("the quota is used up")
            return verdicts

    judge = Stopping("refusal", "f1")
    judge.stop = "request three"
    monkeypatch.setattr(judging, "load_judge", lambda spec: judge)
    source, out = write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl"
    with pytest.raises(UserError, match="quota"):
        score(source, out)
    judge.stop = None
    assert score(source, out).usage == {"refusal": Usage(3, 30, 3)}


def test_a_judge_that_does_not_read_this_kind_of_request_is_refused(tmp_path: Path, remote: Remote) -> None:
    remote.kinds = frozenset({"harmful"})
    with pytest.raises(UserError, match="judge 'remote' cannot judge answers to safe requests"):
        score(write(tmp_path / "answers.jsonl", ROWS), tmp_path / "out.jsonl", kind="safe")
    assert remote.asked == []


def test_completions_of_a_run_keep_the_mark_that_they_were_ended_in_a_loop(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    rows = [{**ROWS[0], "looped": True}, {**ROWS[1], "looped": "true"}, ROWS[2]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [one.completion.looped for one in read_answers(path, AnswerColumns())] == [True, False, False]
