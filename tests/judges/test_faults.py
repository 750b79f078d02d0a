"""Judging an endpoint that fails in every way, and being killed meanwhile: nothing is lost, and nothing asked twice."""

from __future__ import annotations

import logging
import multiprocessing
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from fault_server import LASTING, PASSING, Endpoint, Faulty, Reply, fails, says, serving

from sails_eval.cli import main
from sails_eval.errors import UserError
from sails_eval.judges import limits
from sails_eval.judges.api import AS_JSON, ApiJudge
from sails_eval.judges.cache import VerdictCache, cache_key
from sails_eval.judges.rubric import load_rubrics
from sails_eval.judges.stage import JudgedFile, judge_files
from sails_eval.judges.usage import USAGE, read_usage
from sails_eval.records import Completion, Verdict, read_completions, read_verdicts, write_jsonl

pytestmark = pytest.mark.server

KEY = "sk-marked-key-of-this-test-0123456789"
TIMEOUT = 1.0
"""Seconds that the judge gives a reply, and the server's slow ones exceed."""


Truth = Callable[[int], dict[str, Verdict]]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(limits, "FIRST_WAIT", 0.05)
    with serving() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


def some_files(folder: Path, answers: int, *, files: int = 3) -> list[JudgedFile]:
    """Files of completions; the same id is in each of them, the same answer in none."""
    made = []
    for name in range(files):
        file = JudgedFile(folder / f"{name}.jsonl", folder / f"{name}.verdicts.jsonl")
        own = range(name, answers, files)
        write_jsonl(file.completions, [Completion(str(i // files), f"request {i}", f"answer {i}", "c") for i in own])
        made.append(file)
    return made


def verdicts_in(files: list[JudgedFile]) -> dict[str, Verdict]:
    """By the prompt that the judge is asked with."""
    rubric = load_rubrics()["harmful"]
    found = {}
    for file in files:
        for completion, verdict in zip(read_completions(file.completions), read_verdicts(file.verdicts), strict=True):
            assert completion.id == verdict.id
            found[prompt(rubric.render(completion.prompt, completion.response))] = verdict
    return found


def prompt(rendered: str) -> str:
    return f"{rendered}\n{AS_JSON}"


@pytest.fixture
def truth(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """What the judge says of `n` answers where nothing goes wrong."""

    def judged(n: int) -> dict[str, Verdict]:
        with monkeypatch.context() as patch:
            patch.setenv("SAILS_EVAL_CACHE", str(tmp_path / "truth.sqlite"))
            endpoint.chat = Faulty(rate=0)
            files = some_files(tmp_path / "truth", n)
            assert judge_files(ApiJudge("grader"), "harmful", files) == 0
        return verdicts_in(files)

    return judged


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2, 0.3])
def test_every_answer_is_scored_as_without_faults_or_unscored_with_the_right_reason(
    endpoint: Endpoint, tmp_path: Path, truth: Truth, rate: float
) -> None:
    expected = truth(200)
    endpoint.chat = chat = Faulty(rate, seed=7, slow=2 * TIMEOUT)
    files = some_files(tmp_path / "faulty", 200)
    unscored = judge_files(ApiJudge("grader", timeout=TIMEOUT, concurrency=32), "harmful", files)
    found = verdicts_in(files)
    assert found.keys() == expected.keys()
    for asked, verdict in found.items():
        fault = chat.lasting(asked)
        if fault is None:
            assert verdict == expected[asked]
        else:
            assert (verdict.score, verdict.unscored) == (None, LASTING[fault][1])
    assert set(chat.served.values()) == {1}, "an answer was judged twice, or never"
    assert unscored == sum(chat.lasting(asked) is not None for asked in expected)
    if rate == 0.3:
        assert chat.seen.keys() == {"none", *PASSING, *LASTING}
    before = chat.asked.total()
    judge_files(ApiJudge("grader"), "harmful", files)
    assert chat.asked.total() == before, "a second run asked again"


def test_an_endpoint_that_is_down_leaves_all_unscored_and_the_next_run_mends_it(
    endpoint: Endpoint, tmp_path: Path, truth: Truth
) -> None:
    expected = truth(40)
    endpoint.chat = lambda body: fails(503, "down")
    files = some_files(tmp_path / "down", 40)
    assert judge_files(ApiJudge("grader", patience=0.5), "harmful", files) == 40
    assert {verdict.unscored for verdict in verdicts_in(files).values()} == {"no reply: 503 Error code: 503 - down"}
    endpoint.chat = Faulty(rate=0)
    assert judge_files(ApiJudge("grader"), "harmful", files) == 0
    assert verdicts_in(files) == expected


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (fails(401, f"no such key: {KEY}"), "refuses the key"),
        (fails(429, "no money", code="insufficient_quota"), "the quota is used up"),
    ],
)
def test_a_stop_keeps_what_was_judged_and_the_next_run_asks_for_the_rest(
    endpoint: Endpoint, tmp_path: Path, truth: Truth, reply: Reply, message: str
) -> None:
    expected = truth(60)
    chat = Faulty(rate=0)
    endpoint.chat = lambda body: chat(body) if chat.served.total() < 30 else reply
    files = some_files(tmp_path / "stopped", 60)
    with pytest.raises(UserError, match=message):
        judge_files(ApiJudge("grader", concurrency=4), "harmful", files)
    endpoint.chat = chat
    assert judge_files(ApiJudge("grader", concurrency=4), "harmful", files) == 0
    assert verdicts_in(files) == expected
    assert chat.served.total() <= 60 + 3  # those on their way at the stop


def test_a_minute_of_429s_is_ridden_out(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the default patience and in real time; what asks for how long doesn't matter."""
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(tmp_path / "cache.sqlite"))
    chat, end = Faulty(rate=0), time.monotonic() + 60
    endpoint.chat = lambda body: chat(body) if time.monotonic() > end else fails(429, "slow down")
    assert judge_files(ApiJudge("grader"), "harmful", some_files(tmp_path / "busy", 40)) == 0


def test_the_key_is_nowhere(
    endpoint: Endpoint, tmp_path: Path, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Even where the endpoint quotes it in replies of every kind."""
    draw = Random(0)
    replies = [says(f"Verdict: 1 {KEY}"), says(f"{KEY}\nVerdict: 2"), fails(400, KEY), fails(500, KEY), fails(429, KEY)]
    endpoint.chat = lambda body: draw.choice(replies)
    with caplog.at_level(logging.DEBUG):
        files = some_files(tmp_path / "run", 60)
        judge_files(ApiJudge("grader", patience=0.2), "harmful", files)
        endpoint.chat = lambda body: fails(401, KEY)
        with pytest.raises(UserError) as caught:
            judge_files(ApiJudge("grader"), "harmful", files)
    assert KEY not in str(caught.value)
    assert not [record for record in caplog.records if KEY in record.getMessage()]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert own_cache in kept and len(kept) >= 7
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]


# --- in a comparison ------------------------------------------------------------------------------

CORNER = (
    "compare --pair testbed --methods lora --tokens 400 --seeds 1 --learning-rates 2 --limit 6 --jobs 1 -q "
    "--tasks testbed_harmful_unseen,testbed_safe --judge openai:grader"
).split()


def test_a_quota_that_ends_stops_a_comparison_which_then_goes_on_to_the_same_results(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = Faulty(rate=0)
    endpoint.chat = lambda body: chat(body) if len(chat.served) < 15 else fails(429, code="insufficient_quota")
    stopped = tmp_path / "stopped"
    assert main([*CORNER, "--out", str(stopped)]) == 2
    assert "the quota is used up; once there is some, run again to go on" in capsys.readouterr().err
    assert not (stopped / "results.csv").exists()
    endpoint.chat = chat
    assert main([*CORNER, "--out", str(stopped)]) == 0
    assert chat.served.total() <= len(chat.served) + 15, "more was repeated than was on its way at the stop"
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(tmp_path / "another.sqlite"))
    assert main([*CORNER, "--out", str(tmp_path / "whole")]) == 0
    assert (stopped / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()
    used = {folder.name: read_usage(folder / USAGE)["openai:grader"] for folder in (stopped, tmp_path / "whole")}
    assert used["stopped"].requests >= used["whole"].requests > 20


# --- kills ----------------------------------------------------------------------------------------


def judge_all(files: list[JudgedFile]) -> None:
    judge_files(ApiJudge("grader", concurrency=4), "harmful", files)


def committed(cache: Path, files: list[JudgedFile]) -> set[str]:
    """The prompts about whose answers the cache holds a verdict."""
    if not cache.exists():
        return set()
    rubric, fingerprint, names = load_rubrics()["harmful"], ApiJudge("grader").fingerprint, {}
    for file in files:
        for one in read_completions(file.completions):
            names[cache_key(fingerprint, "harmful", one)] = prompt(rubric.render(one.prompt, one.response))
    with closing(VerdictCache(cache)) as known:
        return {names[key] for key in known.get(names)}


def test_twenty_kills_lose_no_verdict_and_repeat_none(
    endpoint: Endpoint, tmp_path: Path, own_cache: Path, truth: Truth
) -> None:
    expected = truth(400)
    files, draw = some_files(tmp_path / "killed", 400), Random(3)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sails_eval.judges.api", "sails_eval.judges.stage"])
    progress = []
    for _ in range(20):
        before = committed(own_cache, files)
        endpoint.chat = chat = Faulty(rate=0, latency=0.02)
        process = context.Process(target=judge_all, args=(files,))
        process.start()
        while process.is_alive() and not chat.asked:
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.15))
        process.kill()
        process.join()
        assert not before & chat.asked.keys(), "a committed verdict was asked for again"
        assert before <= committed(own_cache, files), "a committed verdict was lost"
        progress.append(len(committed(own_cache, files)) - len(before))
    assert sum(gain > 0 for gain in progress) >= 10 and not any(file.verdicts.exists() for file in files)
    before = committed(own_cache, files)
    endpoint.chat = chat = Faulty(rate=0)
    judge_all(files)
    assert chat.asked == Counter(expected.keys() - before)
    assert verdicts_in(files) == expected
    with closing(sqlite3.connect(own_cache)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
