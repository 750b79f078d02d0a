"""A remote judge at work beside the rest: it begins at once, stops with its error, and says what it used."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sails_eval import judges
from sails_eval.core.errors import UserError
from sails_eval.core.files import write_jsonl
from sails_eval.core.progress import Bar
from sails_eval.core.records import Completion, Verdict, read_verdicts
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, Usage, ignore
from sails_eval.judges.usage import USAGE, read_usage
from sails_eval.plan.plan import PlannedJudge
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.remote_judging import RemoteJudging
from sails_eval.run.runner import Evaluator
from sails_eval.run.stages import AnswerJob, JudgeJob, Subject
from sails_eval.run.workers import Hosts
from sails_eval.tasks.library import TaskInfo, find_tasks

Jobs = Callable[..., JudgeJob]


class Counting(Judge):
    """A judge that calls everything compliance, waits until it is let go, and fails at the answer `bad`."""

    name = fingerprint = "counting"
    parallel = False

    def __init__(self) -> None:
        self.calls: list[tuple[JudgedKind, int]] = []
        self.called, self.go = threading.Event(), threading.Event()
        self.used = Usage()

    def take_usage(self) -> Usage:
        used, self.used = self.used, Usage()
        return used

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        self.calls.append((kind, len(completions)))
        self.called.set()
        assert self.go.wait(10)
        verdicts = []
        for completion in completions:
            self.used += Usage(1, 10, 1, 0.5)
            if completion.response == "bad":
                raise UserError("the quota is used up")
            verdicts.append(Verdict(completion.id, "compliance", 5 if kind == "harmful" else None))
            on_verdict(verdicts[-1])
        return verdicts


@pytest.fixture
def job(tmp_path: Path) -> Jobs:
    tasks: dict[str, TaskInfo] = find_tasks()

    def make(name: str, *answers: str, task: str = "testbed_safe") -> JudgeJob:
        completions = tmp_path / f"{name}.jsonl"
        write_jsonl(completions, [Completion(answer, "q", answer, "c") for answer in answers])
        return JudgeJob("counting", tasks[task], completions, tmp_path / f"{name}.verdicts.jsonl")

    return make


def desk(judge: Counting, run: Path) -> RemoteJudging:
    return RemoteJudging(judge, run / USAGE, Bar())


def test_judging_begins_before_the_last_file_is_there_and_takes_together_what_waits(job: Jobs, tmp_path: Path) -> None:
    judge = Counting()
    with desk(judge, tmp_path) as remote:
        remote.add([job("one", "a", "b")])
        assert judge.called.wait(10)  # while the files below are still being made
        remote.add([job("two", "c")])
        remote.add([job("three", "d", "e"), job("four", "f", task="testbed_harmful_unseen")])
        judge.go.set()
    assert judge.calls == [("safe", 2), ("harmful", 1), ("safe", 3)]
    for name, ids in {"one": "ab", "two": "c", "three": "de", "four": "f"}.items():
        assert [verdict.id for verdict in read_verdicts(tmp_path / f"{name}.verdicts.jsonl")] == list(ids)


def test_what_stops_the_judge_stops_the_run_and_what_was_judged_is_kept(job: Jobs, tmp_path: Path) -> None:
    judge = Counting()
    judge.go.set()
    with pytest.raises(UserError, match="the quota is used up"), desk(judge, tmp_path) as remote:
        remote.add([job("one", "a", "bad", "b")])
    assert read_usage(tmp_path / USAGE)["counting"].requests == 2
    again = job("one", "a", "b")
    with desk(judge, tmp_path) as remote:
        remote.add([again])
    assert judge.calls == [("safe", 3), ("safe", 1)]


def test_the_error_comes_with_the_next_file(job: Jobs, tmp_path: Path) -> None:
    judge, handed_in = Counting(), 0
    judge.go.set()
    with pytest.raises(UserError, match="quota"), desk(judge, tmp_path) as remote:
        remote.add([job("one", "bad")])
        while handed_in < 1000:
            remote.add([])
            handed_in += 1
            threading.Event().wait(0.01)
    assert handed_in < 1000


def test_another_error_does_not_wait_for_the_judge(job: Jobs, tmp_path: Path) -> None:
    judge = Counting()
    with pytest.raises(ZeroDivisionError), desk(judge, tmp_path) as remote:
        remote.add([job("one", "a", "b")])
        assert judge.called.wait(10)
        raise ZeroDivisionError
    judge.go.set()
    remote._thread.join(10)
    assert (
        not remote._thread.is_alive() and judge.used.requests + read_usage(tmp_path / USAGE)["counting"].requests == 1
    )


def test_usage_adds_up_over_resumed_runs(job: Jobs, tmp_path: Path) -> None:
    judge = Counting()
    judge.go.set()
    for name, answers in {"one": "ab", "two": "c", "one again": "ab"}.items():
        with desk(judge, tmp_path) as remote:
            remote.add([job(name, *answers)])
    path = tmp_path / USAGE
    assert json.loads(path.read_text()) == {
        "schema": 1,
        "judges": {"counting": {"requests": 3, "prompt_tokens": 30, "completion_tokens": 3, "cost_usd": 1.5}},
    }


def test_in_a_comparison_the_judge_begins_while_models_still_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, called_before_the_last = Counting(), []
    judge.go.set()
    monkeypatch.setattr(judges, "judge_of", lambda spec: judge)
    task = find_tasks()["testbed_safe"]

    class Pool:
        """Has the subjects answer one after the other, and waits before the last one for the judge to be called."""

        def map(
            self,
            function: Any,
            jobs: Sequence[AnswerJob],
            *,
            title: str,
            done: Callable[[AnswerJob], None],
            failed: object,
        ) -> None:
            for job in jobs:
                if job is jobs[-1]:
                    called_before_the_last.append(judge.called.wait(10))
                completion = Completion(f"{job.subject.method}-1", "q", job.subject.method, "c")
                write_jsonl(job.subject.folder.answers_file(job.split, task.name), [completion])
                done(job)

    pool: Any = Pool()
    plan: Any = SimpleNamespace(
        pair=None, tasks=(task,), limit=None, judge=PlannedJudge("counting", fingerprint="counting"), engine="hf"
    )
    subjects = [Subject(name, ModelFolder(tmp_path / name)) for name in ("first", "second")]
    evaluator = Evaluator(plan, RunFolder(tmp_path), pool, Hosts(quiet=True), quiet=True)
    results = evaluator.measure(subjects, "test")
    assert called_before_the_last == [True]
    assert {result.method for result in results} == {"first", "second"} and all(result.n == 1 for result in results)
