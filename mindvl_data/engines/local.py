"""Runs a pure function over partitions: in this process, or in processes started by `spawn`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeVar

import pyarrow as pa

from mindvl_data.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class EngineError(UserError):
    """A worker died: out of memory, or killed from outside."""


class Engine:
    """A pool that starts with the first work worth sharing. Results come in the order of the tasks."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def run(
        self,
        function: Callable[[T], R],
        tasks: Sequence[T],
        done: Callable[[int, int], None] = lambda i, n: None,
        sizes: Sequence[int] | None = None,
    ) -> list[R]:
        """`[function(task) for task in tasks]`; `done(finished, of)` is called as tasks end, in their sizes if any."""
        weights = sizes or [1] * len(tasks)
        if self.workers == 1 or len(tasks) < 2:
            return list(_in_process(function, tasks, weights, done))
        pool = self._started()
        with _held_back():
            futures = [pool.submit(function, task) for task in tasks]
        try:
            self._watch(dict(zip(futures, weights, strict=True)), done)
            return [future.result() for future in futures]
        except MemoryError as error:
            raise EngineError(
                "a worker process ran out of memory; what was finished is kept: run the same command again, with "
                "fewer --workers"
            ) from error
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process died (killed, or out of memory); what was finished is kept: run the same "
                "command again, with fewer --workers if memory was short"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def _watch(self, futures: Mapping[Future[Any], int], done: Callable[[int, int], None]) -> None:
        waiting: set[Future[Any]] = set(futures)
        total = sum(futures.values())
        while waiting:
            ended, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            for future in ended:
                future.result()
            done(total - sum(futures[future] for future in waiting), total)

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Polars and `fork` deadlock; `spawn` starts clean everywhere.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=context, initializer=_worker)
        return self._pool


@contextmanager
def _held_back() -> Iterator[None]:
    """Processes started within are born deaf to Ctrl-C: while they import, it would end in a traceback of each."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker() -> None:
    """A worker is one core's share: its libraries must not each start a thread for every core.

    Ctrl-C reaches it too, with the terminal's whole group: it ends without a word, the first process speaks.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    leave_pandas_out()
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()


def leave_pandas_out() -> None:
    """For a process of our own: pyarrow hears once that pandas is too old for it; whoever imports pandas still gets it.

    At the first array that it makes of Python's values pyarrow imports pandas where that is installed (`datasets`
    brings it): half a second of a core and 50 MB in every process, to know a Series that nobody here has.
    """
    if "pandas" in sys.modules:
        return
    sys.modules["pandas"] = old = ModuleType("pandas")
    vars(old)["__version__"] = "0"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pa.array([None])
    finally:
        del sys.modules["pandas"]


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that is killed, and would write beside the next build's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_process(
    function: Callable[[T], R], tasks: Sequence[T], weights: Sequence[int], done: Callable[[int, int], None]
) -> Iterator[R]:
    finished = 0
    for task, weight in zip(tasks, weights, strict=True):
        yield function(task)
        finished += weight
        done(finished, sum(weights))
