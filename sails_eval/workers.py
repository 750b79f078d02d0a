"""A pool of worker processes of one thread each.

One thread makes a result independent of how many workers there are; every worker loads the base model once.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from sails_eval.errors import UserError

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the libraries' own bars; ours are drawn by the parent
}

DIED = UserError(
    "a worker process died (out of memory?); what was finished is kept: run the same command again, with fewer --jobs "
    "if memory is short"
)


class Workers:
    """Runs functions over items in the worker processes. Get one from `workers(jobs)`."""

    def __init__(self, pool: ProcessPoolExecutor, *, quiet: bool) -> None:
        self._pool = pool
        self._quiet = quiet

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
        try:
            return self._pool.submit(function, item)
        except BrokenProcessPool as error:
            raise DIED from error

    @staticmethod
    def _result(future: Future[Outcome]) -> Outcome:
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise DIED from error


@contextmanager
def workers(jobs: int, *, quiet: bool = False) -> Iterator[Workers]:
    """A pool of `jobs` processes, started afresh ('spawn'), which die with this process even if it is killed."""
    os.environ.update(ONE_THREAD)  # read when the children import their numerical libraries
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(max_workers=jobs, mp_context=context, initializer=_start)
    try:
        yield Workers(pool, quiet=quiet)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    """Prepare a worker: one thread, quiet libraries, and an end when the parent ends."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with several, the trainer would multiply the batch
    import torch

    from sails_eval.models import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
