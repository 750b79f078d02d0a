"""Errors of the system and of memory, as lines that a user can act on."""

import errno
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from sails_eval.cli import main, runs
from sails_eval.core.errors import CellFailed, UserError, explained, reason
from sails_eval.core.files import check_file, check_folder, write_text
from sails_eval.run.workers import _sent_back


def system(number: int, name: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), name)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (system(errno.ENOSPC), "run/a: no space left on device; free some space there, then give the same command"),
        (system(errno.EROFS, "b/c"), "b/c: read-only file system; make it writable, or give another place"),
        (system(errno.EEXIST, "b"), "b: file exists; it is a file; give the path of a folder"),
        (Exception("I/O error: No space left on device (os error 28)"), "run/a: no space left on device; free"),
        (OSError("m does not appear to have a file named config.json.\nmore"), "run/a: m does not appear to have a"),
        (RuntimeError("Symlink loop from '/b/c'"), "/b/c: too many levels of symbolic links; its links lead to each"),
        (MemoryError(), "out of memory; give fewer --jobs"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory; give fewer --jobs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; give fewer --jobs"),
        (system(errno.ENOMEM), "out of memory; give fewer --jobs"),
        (UserError("bad: correct it"), "bad: correct it"),
    ],
)
def test_an_error_of_the_system_is_one_line_with_path_and_fix(error: Exception, told: str) -> None:
    known = explained(error, Path("run/a"))
    assert known is not None and str(known).startswith(told) and "\n" not in str(known)


def test_what_nobody_foresaw_is_not_explained_and_a_foreign_number_not_misread() -> None:
    assert explained(KeyError("x")) is None and explained(RuntimeError("shape mismatch")) is None
    assert str(explained(socket.gaierror(1, "Name or service not known"))) == "Name or service not known"


def test_what_an_error_quotes_neither_breaks_its_line_nor_steers_the_terminal() -> None:
    error = UserError("d.csv: unknown column 'a\x1cb\x0cc\x85d\u2028e\x1b[31m'\nand another line")
    assert str(error).splitlines() == str(error).split("\n") and len(str(error).splitlines()) == 2
    assert str(pickle.loads(pickle.dumps(error))) == str(error) and "\x1b" not in str(error)


def test_a_reason_is_a_clause() -> None:
    assert reason(KeyError("a;b")) == "KeyError: 'a,b'"
    assert reason(MemoryError()).startswith("out of memory (fewer --jobs")
    assert reason(CellFailed("loss is NaN; lower it")) == "loss is NaN, lower it"


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise system(errno.ENOSPC)  # as write() tells it, which knows no name

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"results\.csv: no space left on device; free some space there"):
            write_text(tmp_path / "results.csv", "a")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: file exists; it is a file"):
        write_text(tmp_path / "file" / "a", "a")


def test_a_place_that_cannot_be_a_folder_is_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new" / "below")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"--out {path}: {tmp_path}/file is a file, not a folder"):
            check_folder(path)
    with pytest.raises(UserError, match="it is a folder; give the path of a file"):
        check_file(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written to; make it writable"):
        check_folder(tmp_path / "new")


class OddError(Exception):
    """As some libraries have them: it can be pickled, and not unpickled."""

    def __init__(self, *, response: str) -> None:
        super().__init__(f"odd {response}")


def raise_odd(response: str) -> None:
    raise OddError(response=response)


def test_a_workers_error_can_always_be_sent_to_the_parent() -> None:
    with pytest.raises(RuntimeError, match="OddError: odd answer") as found:
        _sent_back(raise_odd, "answer")
    assert str(pickle.loads(pickle.dumps(found.value))) == "OddError: odd answer"
    with pytest.raises(ZeroDivisionError):
        _sent_back(lambda n: 1 / n, 0)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Have `runs list` raise an error."""

    def have(error: BaseException) -> None:
        def fail(options: object) -> None:
            raise error

        monkeypatch.setattr(runs, "_list", fail)

    return have


def test_an_unforeseen_error_is_one_line_and_a_traceback_only_where_asked_for(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SAILS_EVAL_DEBUG", raising=False)
    failing(KeyError("x"))
    line = "sails-eval: internal error: KeyError: 'x'; run again with --debug for the traceback, and please report it\n"
    assert main(["runs", "list"]) == 1 and capsys.readouterr().err == line
    for place in range(3):
        words = ["runs", "list"]
        words.insert(place, "--debug")
        assert main(words) == 1
        told = capsys.readouterr().err
        assert told.startswith("Traceback") and told.endswith(line)
    monkeypatch.setenv("SAILS_EVAL_DEBUG", "1")
    failing(UserError("bad: correct it"))
    assert main(["runs", "list"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback") and told.endswith("sails-eval: error: bad: correct it\n")
    monkeypatch.setenv("SAILS_EVAL_DEBUG", "0")
    assert main(["runs", "list"]) == 2 and capsys.readouterr().err == "sails-eval: error: bad: correct it\n"


@pytest.mark.parametrize(
    "command",
    [
        "judge score a.jsonl --judge rules --out",
        "judge calibrate --judge rules --labels a.jsonl --out",
        "judge audit export run --out",
        "leaderboard publish run --board",
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flag = command.split()[-1]
    (tmp_path / "file").touch()
    for path, why in ((tmp_path, "it is a folder"), (tmp_path / "file" / "x.csv", "is a file, not a folder")):
        assert main([*command.split(), str(path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"sails-eval: error: {flag} ") and why in line


@pytest.mark.parametrize("error", [system(errno.ENOSPC), MemoryError(), system(errno.EROFS, "runs")])
def test_what_the_machine_refuses_is_one_line_and_status_2(
    error: Exception, failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error)
    assert main(["runs", "list"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sails-eval: error: ") and "; " in line
