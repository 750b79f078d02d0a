"""Processes that work: a pool of one thread each, and hosts with all threads for what is big and there once.

One thread makes a result independent of how many workers there are; every worker loads the base model once.
"""

import logging
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from tqdm import tqdm

from sails_eval.core.errors import UserError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

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
    "a worker process died (out of memory?); what was finished is kept: run the same command again, with fewer --jobs "
    "if memory is short"
)

HOST_DIED = UserError(
    "the process of the engine, or of a judge on vLLM, died (out of memory?); what was finished is kept: run the same "
    "command again, with less memory for it if that is short"
)


class Workers:
    """Runs functions over items in worker processes, which start at the first. Get one from `workers(jobs)`."""

    def __init__(self, start: Callable[[], ProcessPoolExecutor], *, quiet: bool, died: UserError = DIED) -> None:
        """`start` makes the processes; `died` is raised when one has ended by itself."""
        self._start = start
        self._pool: ProcessPoolExecutor | None = None
        self._quiet = quiet
        self._died = died

    def rest(self) -> None:
        """End the processes, and free their memory, until there is work again."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(self, function: Callable[[Item], Outcome], item: Item) -> Outcome:
        """One item, with no progress bar."""
        return self._result(self._submit(function, item))

    def map(
        self,
        function: Callable[[Item], Outcome],
        items: Iterable[Item],
        *,
        title: str,
        done: Callable[[Item], object] = lambda item: None,
    ) -> list[Outcome]:
        """All items, in order of the items, with a progress bar. The first error stops the rest.

        `done` is called in this process with every finished item at once; an error of its own stops the rest, too.
        """
        futures = {self._submit(function, item): item for item in items}
        try:
            for future in self._as_completed(list(futures), title):
                self._result(future)
                done(futures[future])
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return [future.result() for future in futures]

    def _as_completed(self, futures: list[Future[Outcome]], title: str) -> Iterator[Future[Outcome]]:
        waiting = set(futures)
        with tqdm(total=len(futures), desc=title, disable=self._quiet or not futures, dynamic_ncols=True) as bar:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                bar.update(len(done))
                yield from done

    def _submit(self, function: Callable[[Item], Outcome], item: Item) -> Future[Outcome]:
        if self._pool is None:
            self._pool = self._start()
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool as error:
            raise self._died from error

    def _result(self, future: Future[Outcome]) -> Outcome:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise self._died from error


@contextmanager
def workers(jobs: int, *, quiet: bool = False) -> Iterator[Workers]:
    """A pool of `jobs` processes, started afresh ('spawn'), which die with this process even if it is killed."""
    os.environ.update(ONE_THREAD)  # read when the children import their numerical libraries
    pool = Workers(partial(_spawning, jobs, _start), quiet=quiet)
    try:
        yield pool
    finally:
        pool.rest()


def _spawning(jobs: int, prepare: Callable[..., None], *given: Any) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, context, initializer=prepare, initargs=given)


class Hosts:
    """A process of all threads and devices for what is big: vLLM with a model. One at a time has the machine.

    It starts when its tenant first gets work, and ends when another takes its place, whose memory is free by then.
    Get them from `hosts()`.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._tenant: Any = None
        self._host: Workers | None = None

    def of(self, tenant: Any) -> Workers:
        """The process of this tenant: the same as before if there was no other since, else a new one."""
        if self._host is None or self._tenant != tenant:
            self.close()
            start = partial(_spawning, 1, _start_host, GIVEN)
            self._tenant, self._host = tenant, Workers(start, quiet=self._quiet, died=HOST_DIED)
        return self._host

    def close(self) -> None:
        """End the process that is there."""
        if self._host is not None:
            self._host.rest()


@contextmanager
def hosts(*, quiet: bool = False) -> Iterator[Hosts]:
    """Hosts whose process ends with the block, and with this one even if it is killed."""
    found = Hosts(quiet=quiet)
    try:
        yield found
    finally:
        found.close()


def _start() -> None:
    """Prepare a worker: one thread, quiet libraries, and an end when the parent ends."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several, the trainer would multiply the batch
    import torch

    torch.set_num_threads(1)
    quiet_libraries()


def _start_host(given: dict[str, str | None]) -> None:
    """Prepare a host: threads as the user has them, quiet libraries, and an end when the parent ends."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.pop(name, None)
    os.environ.update({name: value for name, value in given.items() if value is not None})
    quiet_libraries()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def quiet_libraries() -> None:
    """Turn off the progress bars, notes and deprecation warnings that the libraries print for every cell."""
    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    for said in ("The following rank_pattern keys did not match", "(PiSSA|OLoRA|CorDA) changes the base weights"):
        warnings.filterwarnings("ignore", message=said)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("lm_eval", "peft", "trl", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
