"""Ctrl-C and the signals that end a program: the first one stops the work in good order, a second one kills at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from types import FrameType

GRACE = 1.5
"""Seconds that the work has to end in good order. Files are written by rename, so nothing is lost after them either."""

SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([] if sys.platform == "win32" else [signal.SIGHUP])


class Stopped(KeyboardInterrupt):
    """A signal has asked this process to stop."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.status = 128 + number


_asked: list[int] = []
"""The signals that came, in a process that catches them."""

_holding: list[None] = []
"""One for every block that signals have to wait for."""


def catch_signals() -> None:
    """Have the first signal raise `Stopped` in the main thread, and the second kill this process and its workers.

    Signals that are ignored, as nohup has it, stay ignored.
    """
    expect_kills()
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> None:
    if _asked:
        _end(128 + number)
    _asked.append(number)
    late = threading.Timer(GRACE, _end_late, (Stopped(number),))
    late.daemon = True
    late.start()
    if not _holding:
        raise Stopped(number)


def _end_late(stopped: Stopped) -> None:
    """Something holds the main thread up: a call of a library, or requests to an endpoint."""
    say_stopped(stopped)
    _end(stopped.status)


def _end(status: int) -> None:
    for process in active_children():
        if process.pid is not None:
            kill_tree(process.pid)
    with suppress(OSError):
        if sys.stderr.isatty():
            os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # the cursor, which bars hide
    os._exit(status)


_said: list[None] = []


def say_stopped(error: KeyboardInterrupt) -> int:
    """Print, once, how to resume; the exit status. A terminal that has gone does not matter."""
    stopped = error if isinstance(error, Stopped) else Stopped()
    if not _said:
        _said.append(None)
        name = signal.Signals(stopped.status - 128).name
        with suppress(OSError, ValueError):
            told = f"sails-eval: stopped ({name}); finished work is kept: give the same command again to resume"
            print(told, file=sys.stderr, flush=True)
    return stopped.status


def expect_kills() -> None:
    """Have Python's process that frees what a killed one leaves do so without warning of it."""
    key, ours = "PYTHONWARNINGS", "ignore:resource_tracker"
    others = [one for one in os.environ.get(key, "").split(",") if one not in ("", ours)]
    os.environ[key] = ",".join([*others, ours])


@contextmanager
def held() -> Iterator[None]:
    """Signals wait for the end of the block, so that processes that start in it are known by the time they are ended.

    These get none before they call `leave_to_parent`.
    """
    _holding.append(None)
    if sys.platform == "win32":
        before = None
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    came = len(_asked)
    try:
        yield
    finally:
        if sys.platform != "win32" and before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _holding.pop()
        if len(_asked) > came and not _holding:
            raise Stopped(_asked[0])


def leave_to_parent() -> None:
    """In a worker: what a terminal sends to all of its processes is the parent's business, which ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """Kill a process, and all that it has started."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in [root] * itself + root.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()
