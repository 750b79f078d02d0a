"""The judging stage: nothing is asked twice, nothing is lost, and local judges see whole files."""

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from sails_eval.errors import UserError
from sails_eval.judges.base import NO_REPLY, JudgedKind, OnVerdict, ignore
from sails_eval.judges.stage import judge_file
from sails_eval.records import Completion, Verdict, read_verdicts, write_jsonl


class Scripted:
    """A judge that calls everything compliance, notes what it was asked, and fails as it is told."""

    name = fingerprint = "scripted"

    def __init__(self, *, parallel: bool = False) -> None:
        self.parallel = parallel
        self.asked: list[list[str]] = []
        self.unscored: dict[str, str] = {}
        self.stop_at: str | None = None

    def check(self) -> None: ...

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        self.asked.append([])
        verdicts = []
        for completion in completions:
            if completion.id == self.stop_at:
                raise UserError("the quota is used up")
            self.asked[-1].append(completion.id)
            reason = self.unscored.get(completion.id)
            verdicts.append(Verdict(completion.id, None if reason else "compliance", unscored=reason))
            on_verdict(verdicts[-1])
        return verdicts


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    completions = tmp_path / "completions.jsonl"
    write_jsonl(completions, [Completion(id, f"q {id}", f"a {id}", "c") for id in "abcd"])
    return completions, tmp_path / "verdicts" / "judge.jsonl"


def part(verdicts: Path) -> Path:
    return verdicts.with_name(verdicts.name + ".part")


@pytest.mark.parametrize("parallel", [False, True])
def test_a_judged_file_is_not_judged_again(files: tuple[Path, Path], parallel: bool) -> None:
    judge = Scripted(parallel=parallel)
    assert judge_file(judge, "safe", *files) == 0
    before = files[1].read_bytes()
    assert judge_file(judge, "safe", *files) == 0
    assert judge.asked == [["a", "b", "c", "d"]]
    assert files[1].read_bytes() == before
    assert [verdict.id for verdict in read_verdicts(files[1])] == ["a", "b", "c", "d"]
    assert stat.S_IMODE(files[1].stat().st_mode) == 0o600
    assert not part(files[1]).exists()


def test_after_a_stop_only_the_rest_is_asked(files: tuple[Path, Path]) -> None:
    judge = Scripted()
    judge.stop_at = "c"
    with pytest.raises(UserError, match="quota"):
        judge_file(judge, "safe", *files)
    assert not files[1].exists()
    assert stat.S_IMODE(part(files[1]).stat().st_mode) == 0o600
    judge.stop_at = None
    assert judge_file(judge, "safe", *files) == 0
    assert judge.asked == [["a", "b"], ["c", "d"]]
    assert [verdict.id for verdict in read_verdicts(files[1])] == ["a", "b", "c", "d"]
    assert not part(files[1]).exists()


def test_a_half_written_line_is_asked_again(files: tuple[Path, Path]) -> None:
    judge = Scripted()
    judge.stop_at = "c"
    with pytest.raises(UserError):
        judge_file(judge, "safe", *files)
    part(files[1]).write_bytes(part(files[1]).read_bytes()[:-7])
    judge.stop_at = "d"
    with pytest.raises(UserError):
        judge_file(judge, "safe", *files)
    judge.stop_at = None
    judge_file(judge, "safe", *files)
    assert judge.asked == [["a", "b"], ["b", "c"], ["d"]]
    assert [verdict.label for verdict in read_verdicts(files[1])] == ["compliance"] * 4


def test_what_was_unscored_for_a_passing_reason_is_asked_again(files: tuple[Path, Path]) -> None:
    judge = Scripted()
    judge.unscored = {"b": f"{NO_REPLY}timed out", "d": "the judge refused"}
    assert judge_file(judge, "safe", *files) == 2
    reasons = [None, f"{NO_REPLY}timed out", None, "the judge refused"]
    assert [verdict.unscored for verdict in read_verdicts(files[1])] == reasons
    judge.unscored = {}
    assert judge_file(judge, "safe", *files) == 1
    assert judge.asked == [["a", "b", "c", "d"], ["b"]]
    assert [verdict.unscored for verdict in read_verdicts(files[1])] == [
        None,
        None,
        None,
        "the judge refused",
    ]


def test_a_parallel_judge_always_sees_the_whole_file(files: tuple[Path, Path]) -> None:
    """Its batches, and so the last bit of its numbers, must not depend on where an earlier run was killed."""
    judge = Scripted(parallel=True)
    judge.stop_at = "c"
    with pytest.raises(UserError):
        judge_file(judge, "safe", *files)
    assert not part(files[1]).exists()
    judge.stop_at = None
    judge_file(judge, "safe", *files)
    assert judge.asked == [["a", "b"], ["a", "b", "c", "d"]]


@pytest.mark.parametrize(("parallel", "asked"), [(False, ["x"]), (True, ["x", "a", "b", "c", "d"])])
def test_new_completions_are_judged_in_their_place(files: tuple[Path, Path], parallel: bool, asked: list[str]) -> None:
    judge = Scripted(parallel=parallel)
    judge_file(judge, "safe", *files)
    write_jsonl(files[0], [Completion(id, "q", "a", "c") for id in "xabcd"])
    assert judge_file(judge, "safe", *files) == 0
    assert judge.asked[1] == asked
    assert [verdict.id for verdict in read_verdicts(files[1])] == ["x", "a", "b", "c", "d"]


def test_no_completions_make_an_empty_file(files: tuple[Path, Path]) -> None:
    write_jsonl(files[0], [])
    assert judge_file(Scripted(), "safe", *files) == 0
    assert files[1].read_bytes() == b""
