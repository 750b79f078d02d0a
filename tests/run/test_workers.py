import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import InvalidStateError
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.progress import Done, Event, Step, heard, tell
from sails_eval.run.workers import GIVEN, ONE_THREAD, Hosts, Workers, _ignore_races, hosts, workers


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    """Two workers, which take seconds to start."""
    with workers(2, quiet=True) as started:
        yield started


def late(item: tuple[int, float]) -> int:
    number, seconds = item
    time.sleep(seconds)
    return number


def leave_a_trace(item: tuple[Path, int]) -> None:
    folder, number = item
    if number == 0:
        raise UserError("bad: the first item")
    time.sleep(0.1)
    (folder / str(number)).touch()


def threads(_: int) -> tuple[int, str]:
    import torch

    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]


def last_heard(item: tuple[Path, int]) -> None:
    """The first item ends once the others were heard of."""
    folder, number = item
    for _ in range(600 if number == 0 else 0):
        if all((folder / f"heard-{other}").exists() for other in (1, 2)):
            return
        time.sleep(0.1)


def slow_pid(_: int) -> int:
    time.sleep(0.2)
    return os.getpid()


def divide_by(number: int) -> float:
    return 1 / number


def test_results_come_in_the_order_of_the_items(pool: Workers) -> None:
    items = [(0, 0.3), (1, 0.0), (2, 0.1), (3, 0.0)]
    assert pool.map(late, items, title="late") == [0, 1, 2, 3]
    assert pool.map(late, [], title="nothing") == []
    assert pool.run(late, (7, 0.0)) == 7


def test_finished_items_are_told_at_once_and_the_hearer_can_stop_the_rest(pool: Workers, tmp_path: Path) -> None:
    heard: list[int] = []

    def hear(item: tuple[Path, int]) -> None:
        heard.append(item[1])
        (tmp_path / f"heard-{item[1]}").touch()

    pool.map(last_heard, [(tmp_path, number) for number in range(3)], title="late", done=hear)
    assert sorted(heard[:2]) == [1, 2] and heard[2:] == [0]

    def stop(item: tuple[Path, int]) -> None:
        raise UserError("the quota is used up")

    with pytest.raises(UserError, match="quota"):
        pool.map(leave_a_trace, [(tmp_path, number) for number in range(1, 30)], title="stopped", done=stop)
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) < 10


def tell_twice(number: int) -> int:
    tell(Done("answers", number, 1.5))
    tell(Step("lora", number, 9, 0.5, 10.0))
    return number


def test_what_workers_tell_is_heard_here_while_somebody_listens(pool: Workers) -> None:
    told: list[Event] = []
    with heard(told.append):
        pool.map(tell_twice, [1, 2, 3], title="told")
    for _ in range(500):  # what was told last is heard at once, but not at the same time
        if len(told) == 6:
            break
        time.sleep(0.01)
    assert sorted(one.units for one in told if isinstance(one, Done)) == [1, 2, 3]
    assert sorted(one.step for one in told if isinstance(one, Step)) == [1, 2, 3]
    pool.map(tell_twice, [4], title="not heard")
    assert len(told) == 6


def test_workers_are_other_processes_of_one_thread(pool: Workers) -> None:
    assert pool.run(threads, 0) == (1, "1")
    assert pool.run(abs, -1) == 1
    pids = set(pool.map(slow_pid, range(4), title="pids"))
    assert len(pids) == 2 and os.getpid() not in pids
    pool.rest()
    assert not any(map(alive, pids)) and pool.run(abs, -1) == 1


def test_the_first_error_is_the_callers_and_stops_the_rest(pool: Workers, tmp_path: Path) -> None:
    items = [(tmp_path, number) for number in range(30)]
    with pytest.raises(UserError, match=r"^bad: the first item$"):
        pool.map(leave_a_trace, items, title="errors")
    assert pool.run(abs, -2) == 2  # the pool goes on working
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) < 10


def test_errors_of_the_program_keep_their_kind(pool: Workers) -> None:
    with pytest.raises(ZeroDivisionError):
        pool.run(divide_by, 0)


def test_a_worker_that_dies_is_an_error_that_says_what_to_do(pool: Workers) -> None:
    """The last one here: it breaks the pool."""
    with pytest.raises(UserError, match=r"a worker process died .* give the same command again"):
        pool.map(os._exit, [1], title="death")


def test_the_environment_is_the_callers_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), workers(1, quiet=True):
        assert {name: os.environ[name] for name in ONE_THREAD} == ONE_THREAD
        raise ZeroDivisionError
    assert dict(os.environ) == before


UNGUARDED = """
import sails_eval
sails_eval.compare(methods=["lora"], quick=True, jobs=2, quiet=True)
"""

TYPED = """
from sails_eval.run.workers import workers
with workers(1, quiet=True) as pool:
    print(pool.run(abs, -1))
"""


def test_a_script_without_the_guard_is_told_that_it_needs_one(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(UNGUARDED)
    done = subprocess.run([sys.executable, "study.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    *_, told = done.stderr.strip().splitlines()
    assert done.returncode == 1 and "UserError: study.py: the script has no main guard" in told, done.stderr
    assert 'if __name__ == "__main__":' in told and "memory" not in told
    assert [path.name for path in tmp_path.iterdir()] == ["study.py"]  # nothing was begun


def test_a_script_that_calls_outside_its_guard_is_told_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text(f'if __name__ == "__main__":\n    pass\n{TYPED}')
    done = subprocess.run([sys.executable, tmp_path / "study.py"], capture_output=True, text=True, check=False)
    assert "freeze_support" in done.stderr and "UserError: a worker process died while starting" in done.stderr


def test_what_is_typed_needs_no_guard_and_what_is_piped_a_file() -> None:
    """In a notebook, too, there is no script that workers would import."""
    python = partial(subprocess.run, capture_output=True, text=True, check=False)
    typed = python([sys.executable, "-c", TYPED])
    assert typed.stdout.strip() == "1", typed.stderr
    piped = python([sys.executable, "-"], input=TYPED)
    assert "UserError: <stdin>: worker processes cannot import it; save the program to a file" in piped.stderr


@pytest.fixture(scope="module")
def found() -> Iterator[Hosts]:
    with hosts(quiet=True) as started:
        yield started


@pytest.mark.slow
def test_a_host_lives_as_long_as_its_tenant_and_has_the_threads_that_the_user_gave(
    found: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GIVEN, "OMP_NUM_THREADS", "3")
    with workers(1, quiet=True):  # whose threads are no business of a host
        first = found.of("a").run(slow_pid, 0)
        assert found.of("a").run(os.getenv, "OMP_NUM_THREADS") == "3"
    with pytest.raises(UserError, match=r"the process of the engine, .* died .* give the same command again"):
        found.of("b").map(os._exit, [1], title="death")
    assert not alive(first)


PARENT = """
import os, signal, sys, time
from sails_eval.core.stopping import catch_signals, say_stopped
from sails_eval.run.workers import workers

def work(folder):
    name = f"{folder}/{os.getpid()}"
    open(name, "w").write("")
    os.rename(name, f"{name}.pid")
    time.sleep(120)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    catch_signals()
    try:
        with workers(2, quiet=True) as pool:
            pool.map(work, [sys.argv[1]] * 9, title="work")
    except KeyboardInterrupt as error:
        sys.exit(say_stopped(error))
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks for processes in /proc")
@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_workers_end_with_their_parent_at_once(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    """Whether a signal goes to it or, as terminals and schedulers send it, to all; no word but how to resume."""
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    command = [sys.executable, str(script), str(tmp_path)]
    parent = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, start_new_session=True)
    for _ in range(1200):
        if len(children := [int(path.stem) for path in tmp_path.glob("*.pid")]) == 2:
            break
        time.sleep(0.1)
    assert len(children) == 2 and all(map(alive, children))
    try:
        (os.killpg if whole_group else os.kill)(parent.pid, number)
        _, told = parent.communicate(timeout=60)
        for _ in range(100):  # the two were to sleep for minutes
            if not any(map(alive, children)):
                break
            time.sleep(0.1)
        assert not any(map(alive, children))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    resume = f"sails-eval: stopped ({number.name}); finished work is kept: give the same command again to resume\n"
    expected = (-9, "") if number == signal.SIGKILL else (128 + number, resume)
    assert (parent.returncode, told) == expected and len(list(tmp_path.glob("*.pid"))) == 2


def test_no_thread_prints_that_work_was_cancelled_before_it_could_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    def raising(error: type[Exception]) -> None:
        thread = threading.Thread(target=lambda: (_ for _ in ()).throw(error("told")))
        thread.start()
        thread.join()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", threading.__excepthook__)
        _ignore_races.__wrapped__()
        raising(InvalidStateError)
        assert capsys.readouterr().err == ""
        raising(ValueError)
    assert "ValueError: told" in capsys.readouterr().err
