"""Judging an endpoint that fails in every way, and being killed meanwhile: nothing is lost, and nothing asked twice."""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
import re
import signal
import sqlite3
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.core.files import write_jsonl
from sails_eval.core.records import Completion, Verdict, read_completions, read_verdicts
from sails_eval.judges.api import ApiJudge, Options
from sails_eval.judges.api_reply import AS_JSON, AS_TEXT
from sails_eval.judges.cache import VerdictCache, cache_key
from sails_eval.judges.rubric import load_rubrics
from sails_eval.judges.stage import JudgedFile, judge_files
from sails_eval.judges.usage import USAGE, read_usage
from sails_eval.models import limits
from tests.judges.fault_server import LASTING, PASSING, Endpoint, Faulty, Reply, fails, prompt_of, says, serving

pytestmark = pytest.mark.server

KEY = "sk-marked-key-of-this-test-0123456789"
USER, PASSWORD, TOKEN = "marked-user", "marked-password", "marked-token"
BASIC = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
SECRETS = (KEY, USER, PASSWORD, TOKEN, BASIC)
FIRST_WAIT = limits.FIRST_WAIT
TIMEOUT = 2.0
"""Seconds that the judge gives a reply, and the server's slow ones exceed."""


Truth = Callable[[int], dict[str, Verdict]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Beside a test's other files, all of which are searched for secrets."""
    path = tmp_path / "cache" / "verdicts.sqlite"
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(path))
    return path


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Endpoint]:
    """A server with secrets in its URL. Whatever a test does with it, no file holds any of them afterwards."""
    monkeypatch.setattr(limits, "FIRST_WAIT", 0.05)
    with serving() as server:
        host = server.url.removeprefix("http://")
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{USER}:{PASSWORD}@{host}?token={TOKEN}")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if told(path.read_bytes().decode(errors="replace"))]


def told(text: str) -> list[str]:
    """The secrets in a text."""
    return [secret for secret in SECRETS if secret in text]


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
    reasons = Counter(verdict.unscored for verdict in found.values() if verdict.unscored)
    print(f"{rate:.0%} faulty: 200 answers in {chat.asked.total()} requests, {200 - unscored} scored, {dict(reasons)}")
    endpoint.chat = healthy = Faulty(rate=0)
    assert judge_files(ApiJudge("grader"), "harmful", files) == 0
    assert healthy.asked == Counter(asked for asked, verdict in found.items() if verdict.unscored)
    assert verdicts_in(files) == expected


def test_faults_do_as_little_where_replies_are_text(
    endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that has no JSON schema."""

    def judged(chat: Faulty, name: str) -> list[Verdict]:
        endpoint.chat = lambda body: (
            fails(400, "response_format unsupported") if "response_format" in body else chat(body)
        )
        monkeypatch.setenv("SAILS_EVAL_CACHE", str(tmp_path / f"{name}.sqlite"))
        (file,) = some_files(tmp_path / name, 100, files=1)
        judge_files(ApiJudge("grader", timeout=TIMEOUT, concurrency=32), "harmful", [file])
        return read_verdicts(file.verdicts)

    expected = judged(Faulty(rate=0), "whole")
    chat = Faulty(0.3, seed=7, slow=2 * TIMEOUT)
    found, rubric = judged(chat, "faulty"), load_rubrics()["harmful"]
    faults = [chat.lasting(f"{rubric.render(f'request {i}', f'answer {i}')}\n{AS_TEXT}") for i in range(100)]
    assert any(faults) and "500" in chat.seen
    for verdict, truth, fault in zip(found, expected, faults, strict=True):
        assert verdict == truth if fault is None else verdict.unscored == LASTING[fault][1]


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
        (fails(401, f"no such key: {KEY}"), "rejects the key"),
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


def test_a_minute_of_429s_is_retried(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the default patience and waits, of which all, like the minute, are a tenth here."""
    monkeypatch.setattr(limits, "FIRST_WAIT", FIRST_WAIT / 10)
    monkeypatch.setattr(limits, "LONGEST_WAIT", limits.LONGEST_WAIT / 10)
    chat, end = Faulty(rate=0), time.monotonic() + 60 / 10
    endpoint.chat = lambda body: chat(body) if time.monotonic() > end else fails(429, "slow down")
    judge = ApiJudge("grader", patience=Options().patience / 10)
    assert judge_files(judge, "harmful", some_files(tmp_path / "busy", 40)) == 0


def test_no_secret_is_told(
    endpoint: Endpoint,
    tmp_path: Path,
    own_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Even where the endpoint quotes all of them in replies of every kind; the fixture looks into the files."""
    draw, quoted = Random(0), " ".join((*SECRETS, os.environ["OPENAI_BASE_URL"]))
    replies = [says(f"Verdict: 1 {quoted}"), says(f"{quoted}\nVerdict: 2")]
    replies += [fails(status, quoted) for status in (400, 429, 500)]
    endpoint.chat = lambda body: draw.choice(replies)
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"request {i}", "response": f"answer {i}", "label": i % 5 + 1} for i in range(60)]
    write_jsonl(Path("people.jsonl"), rows)
    judge = "--judge openai:grader?patience=0.2 -v"
    with caplog.at_level(logging.INFO, logger="sails_eval"):
        assert main(f"judge score people.jsonl {judge} --out scores.jsonl".split()) == 0
        assert main(f"judge calibrate --labels people.jsonl {judge}".split()) == 0
        for status in (401, 403, 404):
            endpoint.chat = lambda body, status=status: fails(status, quoted)  # type: ignore[misc]
            assert main(f"judge score people.jsonl {judge} --out scores.jsonl".split()) == 2
    printed = capsys.readouterr()
    assert "60 answers" in printed.out and "rejects the key" in printed.err
    assert not told(printed.out + printed.err + caplog.text)
    assert {authorization for _, authorization in endpoint.received} == {f"Basic {BASIC}"}
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert {own_cache.name, "scores.jsonl", "scores.jsonl.raw.jsonl", "scores.jsonl.meta.json"} <= kept


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
    assert "the quota is used up; give the same command again later to resume" in capsys.readouterr().err
    assert not (stopped / "results.csv").exists()
    endpoint.chat = chat
    assert main([*CORNER, "--out", str(stopped)]) == 0
    assert chat.served.total() <= len(chat.served) + 15, "more was repeated than was on its way at the stop"
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(tmp_path / "another.sqlite"))
    assert main([*CORNER, "--out", str(tmp_path / "whole")]) == 0
    assert (stopped / "results.csv").read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()
    used = {folder.name: read_usage(folder / USAGE)["openai:grader"] for folder in (stopped, tmp_path / "whole")}
    assert used["stopped"].requests >= used["whole"].requests > 20


def test_what_was_not_judged_is_told_and_asked_for_by_the_same_command(
    endpoint: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing scored is no result; some of it is one, but the run is not finished then."""
    run, chat = tmp_path / "run", Faulty(rate=0)
    command = [*CORNER, "--out", str(run)]
    command[command.index("openai:grader")] += "?patience=0.2"
    endpoint.chat = lambda body: fails(503, "down")
    assert main(command) == 2
    assert re.search(r"scored none of \d+ answers \(\d+ × no reply: 503 .* down\)", capsys.readouterr().err)
    assert not (run / "results.csv").exists()
    endpoint.chat = lambda body: chat(body) if len(prompt_of(body)) % 5 else fails(503, "down")
    assert main(command) == 0
    lacking = {row["unscored"] for row in csv.DictReader((run / "results.csv").open())}
    assert lacking > {"0"} and not (run / "finished.json").exists()
    endpoint.chat = chat
    assert main(command) == 0
    assert {row["unscored"] for row in csv.DictReader((run / "results.csv").open())} == {"0"}
    assert (run / "finished.json").exists() and set(chat.served.values()) == {1}


# --- several processes ----------------------------------------------------------------------------


def test_four_processes_ask_for_each_answer_once(endpoint: Endpoint, tmp_path: Path, truth: Truth) -> None:
    """Two that judge the same and two that share a half; one is killed, and the others ask for what it left."""
    expected = truth(120)
    endpoint.chat = chat = Faulty(rate=0, latency=0.02)
    files = [some_files(tmp_path / str(i), 120 if i < 2 else 60) for i in range(4)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sails_eval.judges.api", "sails_eval.judges.stage"])
    processes = [context.Process(target=judge_all, args=(own, dict(os.environ))) for own in files]
    for process in processes:
        process.start()
    while len(chat.served) < 20:
        time.sleep(0.001)
    processes[0].kill()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0, 0, 0]
    assert chat.asked.keys() == expected.keys()
    assert chat.asked.total() <= 120 + 4  # those on their way at the kill
    assert verdicts_in(files[1]) == expected
    assert verdicts_in(files[2]) == verdicts_in(files[3]) == {one: expected[one] for one in verdicts_in(files[2])}


# --- kills ----------------------------------------------------------------------------------------


def judge_all(files: list[JudgedFile], environment: dict[str, str]) -> None:
    """In a process whose server may have started in an earlier test, with that one's endpoint and cache."""
    os.environ.update(environment)
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
        process = context.Process(target=judge_all, args=(files, dict(os.environ)))
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
    judge_all(files, {})
    assert chat.asked == Counter(expected.keys() - before)
    assert verdicts_in(files) == expected
    print(f"20 kills, {progress} of 400 verdicts committed between them; then asked for {chat.asked.total()}")
    with closing(sqlite3.connect(own_cache)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
