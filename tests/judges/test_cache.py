"""The cache of verdicts: scored ones only, nothing of the texts, many writers, and clear words where it can't work."""

import multiprocessing
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.records import Completion, Verdict, Vote
from sails_eval.judges.cache import VerdictCache, cache_key, cache_path

ASKED = Completion("id-1", "a private request", "a private answer", "category")
SCORED = Verdict("k", "partial", 3)


def test_a_verdict_outlives_the_process_that_put_it_in(own_cache: Path) -> None:
    with closing(VerdictCache()) as cache:
        cache.put(SCORED)
        cache.put(Verdict("l", "compliance"))
        cache.put(SCORED)
    with closing(VerdictCache()) as cache:
        found = cache.get(["k", "l", "m"])
    assert found == {"k": SCORED, "l": Verdict("l", "compliance")}
    assert own_cache == cache_path()


@pytest.mark.parametrize("reason", ["the judge refused", "no reply: timed out"])
def test_what_is_unscored_is_not_kept_nor_is_what_lacks_a_vote(reason: str) -> None:
    votes: list[Vote] = [
        {"judge": "a", "label": "refusal", "score": 1, "unscored": None, "raw": None},
        {"judge": "b", "label": None, "score": None, "unscored": reason, "raw": "text"},
    ]
    with closing(VerdictCache()) as cache:
        cache.put(Verdict("k", unscored=reason, raw="text"))
        cache.put(Verdict("l", "refusal", 1, votes=[votes[0], votes[0], votes[1]]))
        cache.put(Verdict("m", "refusal", 1, votes=[votes[0], votes[0]]))
        assert cache.get(["k", "l", "m"]).keys() == {"m"}


def test_many_keys_are_looked_up_at_once() -> None:
    with closing(VerdictCache()) as cache:
        for i in range(1100):
            cache.put(Verdict(str(i), "refusal", 1))
        assert len(cache.get(map(str, range(50, 2000)))) == 1050


def test_the_key_is_all_that_determines_a_verdict_and_nothing_else() -> None:
    key = cache_key("judge", "harmful", ASKED)
    assert key == cache_key("judge", "harmful", replace(ASKED, id="other", category="x", value=1.0))
    others = {
        cache_key("judge 2", "harmful", ASKED),
        cache_key("judge", "safe", ASKED),
        cache_key("judge", "harmful", replace(ASKED, prompt="")),
        cache_key("judge", "harmful", replace(ASKED, prompt="a private", response=" requesta private answer")),
    }
    assert len(others | {key}) == 5


def test_the_file_is_private_and_holds_no_text(own_cache: Path) -> None:
    with closing(VerdictCache()) as cache:
        cache.put(Verdict(cache_key("judge", "harmful", ASKED), "refusal", 1, raw="a private reply"))
        files = list(own_cache.parent.iterdir())
        assert {path.name for path in files} == {f"verdicts.sqlite{end}" for end in ("", "-wal", "-shm")}
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert not any(b"private" in path.read_bytes() for path in files)


def put_some(path: Path, first: int) -> None:
    with closing(VerdictCache(path)) as cache:
        for i in range(first, first + 200):
            cache.put(Verdict(str(i), "refusal", 1))


def test_processes_write_at_the_same_time(own_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=put_some, args=(own_cache, 100 * i)) for i in range(4)]  # half of it twice
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    with closing(VerdictCache()) as cache:
        assert len(cache.get(map(str, range(1000)))) == 500


def test_what_one_is_about_to_ask_no_other_asks(own_cache: Path) -> None:
    with closing(VerdictCache()) as one, closing(VerdictCache()) as other:
        one.put(replace(SCORED, id="a"))
        assert one.claim("abc") == ["b", "c"] and other.claim("abcd") == ["d"]
        one.put(replace(SCORED, id="b"))
        assert other.claim("bc") == [] and one.claim("c") == ["c"]
        one.close()
        assert other.claim("bc") == ["c"]
    assert not list(own_cache.parent.glob(".*.lock"))


def claim_and_die(path: Path) -> None:
    VerdictCache(path).claim("abc")
    os._exit(1)


def test_a_claim_ends_with_its_process(own_cache: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=claim_and_die, args=(own_cache,))
    process.start()
    process.join()
    with closing(VerdictCache()) as cache:
        assert cache.claim("ab") == ["a", "b"]
    assert not list(own_cache.parent.glob(".*.lock"))


def test_a_file_that_is_something_else_is_refused_and_kept(own_cache: Path) -> None:
    own_cache.parent.mkdir()
    own_cache.write_text("some notes of mine, longer than the header of a database would be. " * 3)
    before = own_cache.read_bytes()
    with pytest.raises(UserError, match=r"verdicts.sqlite is damaged .*set SAILS_EVAL_CACHE to another file"):
        VerdictCache()
    assert own_cache.read_bytes() == before
    own_cache.unlink()
    with closing(sqlite3.connect(own_cache)) as foreign:
        foreign.execute("CREATE TABLE verdicts (key TEXT PRIMARY KEY, verdict TEXT)")
    with pytest.raises(UserError, match="not a cache of verdicts"):
        VerdictCache()


def test_a_damaged_file_is_told(own_cache: Path) -> None:
    put_some(own_cache, 0)
    content = bytearray(own_cache.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    own_cache.write_bytes(content)
    with pytest.raises(UserError, match="damaged"), closing(VerdictCache()) as cache:
        cache.get(["1"])


@pytest.mark.parametrize("said", ["not json", "[]", "null", '{"label": "EVIL"}', '{"score": "five"}', '{"foo": 1}'])
def test_a_damaged_verdict_is_never_used(own_cache: Path, said: str) -> None:
    with closing(VerdictCache()) as cache:
        cache.put(SCORED)
        cache._connection.execute("UPDATE verdicts SET verdict = ?", [said])
        with pytest.raises(UserError, match=r"verdicts.sqlite is damaged .*set SAILS_EVAL_CACHE to another file"):
            cache.get(["k"])


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't be used .*set SAILS_EVAL_CACHE to another file"):
        VerdictCache(tmp_path / "file" / "verdicts.sqlite")
    with pytest.raises(UserError, match="can't be used"):
        VerdictCache(tmp_path)


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAILS_EVAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_path() == Path("/caches/sails-eval/verdicts.sqlite")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_path() == Path("/home/somebody/.cache/sails-eval/verdicts.sqlite")
