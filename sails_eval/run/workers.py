"""Processes that work: a pool of one thread each, and hosts with all threads for what is big and there once.

One thread makes a result independent of how many workers there are; every worker loads the base model once.
"""

import logging
import os
import pickle
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event as Flag
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import Any, TypeVar

from sails_eval.core.errors import CellFailed, UserError, explained, first_line
from sails_eval.core.progress import Event, bar, listen, tell
from sails_eval.core.stopping import expect_kills, held, kill_tree, leave_to_parent

Given = TypeVar("Given")
Made = TypeVar("Made")

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the libraries' own bars; ours are drawn by the parent
}

GIVEN = {name: os.environ.get(name) for name in ONE_THREAD}
"""What the user says of these, before workers change it."""

DIED = UserError(
    "a worker process died (out of memory?); finished work is kept: give the same command again to resume, with fewer "
    "--jobs if memory is short"
)

HOST_DIED = UserError(
    "the process of the engine, or of a judge on vLLM, died (out of memory?); finished work is kept: give the same "
    "command again to resume, with a lower gpu_memory_utilization if memory is short"
)


SAME_SIGNAL = 0.3
"""Seconds in which a signal that ended a worker reaches its parent, too, as schedulers send it to all processes."""


def late(job: tuple[str, tuple[Any, ...]]) -> Any:
    """Call `module:function` with arguments: the process that hands out the work need not import the module."""
    name, given = job
    return resolve_name(name)(*given)


class Workers(AbstractContextManager["Workers"]):
    """Runs functions over items in processes, which start ('spawn') at the first and end with the block.

    They die with this process even if it is killed, and at once where an error or a signal ends the block: files are
    written by rename, so what they are at is made again. Get one from `workers(jobs)`, or as a host from `Hosts`.
    """

    def __init__(self, jobs: int, *, quiet: bool, host: bool = False) -> None:
        """A `host` has all threads, as the user has them."""
        self._jobs, self._quiet, self._host = jobs, quiet, host
        self._pool: ProcessPoolExecutor | None = None
        self._started: Flag | None = None
        self._told: SimpleQueue[Event | None] | None = None
        self._died = HOST_DIED if host else DIED

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.rest(at_once=kind is not None)

    def rest(self, *, at_once: bool = False) -> None:
        """End the processes, after what they are at or `at_once`, and free their memory, until there is work again."""
        if self._pool is not None:
            for pid in list(self._pool._processes or ()) if at_once else ():  # kill_workers() of Python 3.14
                kill_tree(pid)
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        if self._told is not None:
            # not here: a worker that was killed while it told something keeps the queue's lock for good
            threading.Thread(target=self._told.put, args=(None,), daemon=True).start()
            self._told = None

    def run(self, function: Callable[[Given], Made], item: Given) -> Made:
        """One item, with no progress bar."""
        return self._result(self._submit(function, item))

    def map(
        self,
        function: Callable[[Given], Made],
        items: Iterable[Given],
        *,
        title: str,
        done: Callable[[Given], object] = lambda item: None,
        failed: Callable[[Given, CellFailed], object] | None = None,
    ) -> list[Made]:
        """All items, in order of the items, with a progress bar. The first error stops the rest, except those of cells
        that `failed`, where it is given, is called with.

        `done` is called in this process with every finished item at once; an error of its own stops the rest, too.
        """
        futures = {self._submit(function, item): item for item in items}
        try:
            for future in self._as_completed(list(futures), title):
                try:
                    self._result(future)
                except CellFailed as error:
                    if failed is None:
                        raise
                    failed(futures[future], error)
                else:
                    done(futures[future])
            self._hear_out()
        except BaseException:
            _ignore_races()
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures if future.exception() is None]

    def _hear_out(self) -> None:
        """Let what the workers told be heard, up to a second long, before bars that count it are gone."""
        for _ in range(100):
            if self._told is None or self._told.empty():
                return
            time.sleep(0.01)

    def _as_completed(self, futures: list[Future[Made]], title: str) -> Iterator[Future[Made]]:
        waiting = set(futures)
        with bar(title, len(futures), quiet=self._quiet) as finished:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                finished.update(len(done))
                yield from done

    def _submit(self, function: Callable[[Given], Made], item: Given) -> Future[Made]:
        expect_kills()
        with held():  # so that it gets no SIGHUP; of itself it ignores the others, and lets them through here
            resource_tracker.ensure_running()
        with held():
            return self._submitted(function, item)

    def _submitted(self, function: Callable[[Given], Made], item: Given) -> Future[Made]:
        if self._pool is None:
            context = get_context("spawn")
            self._started = context.Event()
            self._told = context.SimpleQueue()
            threading.Thread(target=_pass_on, args=(self._told,), daemon=True).start()
            given = (self._started, GIVEN if self._host else None, self._told)
            self._pool = ProcessPoolExecutor(self._jobs, context, _start, given)
        try:
            return self._pool.submit(_sent_back, function, item)
        except BrokenProcessPool as error:
            raise self._death() from error

    def _result(self, future: Future[Made]) -> Made:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise self._death() from error

    def _death(self) -> UserError:
        """Why a process died. None gets as far as its start where the main script, which each imports, has no guard."""
        time.sleep(SAME_SIGNAL)
        script = vars(sys.modules["__main__"]).get("__file__")  # a notebook has none, and is not imported
        if script is None or self._started is None or self._started.is_set():
            return self._died
        if not Path(script).is_file():
            return UserError(
                f"{script}: worker processes cannot import it; save the program to a file and run that file"
            )
        if "__main__" in Path(script).read_text(encoding="utf-8", errors="replace"):
            return UserError(
                "a worker process died while starting; correct its error if one is printed above, else (it was killed, "
                "or out of memory) give the same command again to resume"
            )
        return UserError(
            f"{Path(script).name}: the script has no main guard: worker processes import it, and died while doing so "
            "(their error is printed above); put code that must run only once, such as calls of sails_eval, under "
            'if __name__ == "__main__":'
        )


@contextmanager
def workers(jobs: int, *, quiet: bool = False) -> Iterator[Workers]:
    """A pool of `jobs` processes of one thread each, for a block; the environment is the caller's again after it."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)  # read when the children import their numerical libraries
    try:
        with Workers(jobs, quiet=quiet) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})


class Hosts(AbstractContextManager["Hosts"]):
    """A process of all threads and devices for what is big: vLLM with a model. One at a time has the machine.

    It starts when its tenant first gets work, and ends with the block, or when another takes its place, whose memory is
    free by then.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._tenant: Any = None
        self._host: Workers | None = None

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close(at_once=kind is not None)

    def of(self, tenant: Any) -> Workers:
        """The process of this tenant: the same as before if there was no other since, else a new one."""
        if self._host is None or self._tenant != tenant:
            self.close()
            self._tenant, self._host = tenant, Workers(1, quiet=self._quiet, host=True)
        return self._host

    def close(self, *, at_once: bool = False) -> None:
        """End the process that is there."""
        if self._host is not None:
            self._host.rest(at_once=at_once)


def hosts(*, quiet: bool = False) -> Hosts:
    """Hosts for a block, in which the first starts when there is work for it."""
    return Hosts(quiet=quiet)


def _pass_on(told: "SimpleQueue[Event | None]") -> None:
    """Tell here what workers tell there, until the end is told, or a worker was killed in the middle of it."""
    with suppress(EOFError, OSError, pickle.UnpicklingError):
        while (event := told.get()) is not None:
            tell(event)


def _start(started: Flag, threads: Mapping[str, str | None] | None, told: "SimpleQueue[Event | None]") -> None:
    """Prepare a worker of one thread, or a host with the `threads` that the user has: quiet, and at an end with us.

    How far its work is goes into `told`.
    """
    leave_to_parent()
    started.set()
    listen(told.put)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        _prepare(threads)
    except Exception as error:
        _not_started.append(error)


_not_started: list[Exception] = []
"""Why this worker cannot work; the first item is told."""


def _sent_back(function: Callable[[Given], Made], item: Given) -> Made:
    """What the function makes. What it raises is always something that can be sent to the parent."""
    try:
        if _not_started:
            raise _not_started[0]
        return function(item)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise explained(error) or RuntimeError(f"{type(error).__name__}: {first_line(error)}") from error
        raise


def _prepare(threads: Mapping[str, str | None] | None) -> None:
    """Have the process compute with one thread, or as `threads` says."""
    if threads is None:
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several, the trainer would multiply the batch
        import torch

        torch.set_num_threads(1)
    else:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in threads.items() if value is not None})
    quiet_libraries()


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    kill_tree(os.getpid(), itself=False)
    os._exit(1)


@cache
def _ignore_races() -> None:
    """Have no thread print that a future was cancelled before it could end it: a pool whose processes are killed while
    its work is cancelled may try both at once."""
    usual = threading.excepthook

    def told(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, InvalidStateError):
            usual(args)

    threading.excepthook = told


def quiet_libraries() -> None:
    """Turn off the progress bars, notes and deprecation warnings that the libraries print for every cell."""
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    for said in ("The following rank_pattern keys did not match", "(PiSSA|OLoRA|CorDA) changes the base weights"):
        warnings.filterwarnings("ignore", message=said)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # read when it is imported, which not all here need
    for name in ("lm_eval", "peft", "trl", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
