"""Runs a pure function over partitions: in this process, or in processes started by `spawn`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from mindvl_data.engines import Done, EngineError, EngineOptions, R, T, silent
from mindvl_data.engines.worker import ONE_THREAD, leave_pandas_out


def opened(options: EngineOptions) -> LocalEngine:
    """As many processes as there are cores, or as are wanted. Raises EngineError for the address of a cluster."""
    if options.address is not None:
        raise EngineError("--address names a cluster, and the local engine has none; add --engine ray")
    return LocalEngine(options.workers or os.cpu_count() or 1)


class LocalEngine:
    """A pool that starts with the first work worth sharing. Results come in the order of the tasks."""

    less_memory = "with fewer --workers"
    elsewhere = False

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool:
            if kind and issubclass(kind, KeyboardInterrupt):
                # Of a signal to this process alone they have not heard; what they are at is done again.
                for worker in multiprocessing.active_children():
                    worker.terminate()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def share(self, folder: Path | None, files: Sequence[Path]) -> None:
        """This machine has what it has."""

    def run(
        self,
        function: Callable[[T], R],
        tasks: Sequence[T],
        done: Done = silent,
        sizes: Sequence[int] | None = None,
        device: str = "cpu",
    ) -> list[R]:
        """See Engine.run; a single task, or all of them for a single worker, run in this process."""
        weights = sizes or [1] * len(tasks)
        if self.workers == 1 or len(tasks) < 2:
            return list(_in_process(function, tasks, weights, done))
        futures: list[Future[R]] = []
        try:
            pool = self._started()
            with _held_back():
                futures += [pool.submit(function, task) for task in tasks]
            self._watch(dict(zip(futures, weights, strict=True)), done)
            return [future.result() for future in futures]
        except MemoryError as error:
            raise EngineError(
                "a worker process ran out of memory; what was finished is kept: run the same command again, "
                f"{self.less_memory}"
            ) from error
        except BrokenProcessPool as error:
            raise EngineError(
                "a worker process died (killed, or out of memory); what was finished is kept: run the same "
                f"command again, {self.less_memory} if memory was short"
            ) from error
        finally:
            for future in futures:
                future.cancel()

    def _watch(self, futures: Mapping[Future[Any], int], done: Done) -> None:
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
    """Ctrl-C reaches it too, with the terminal's whole group: it ends without a word, the first process speaks."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ |= ONE_THREAD
    leave_pandas_out()
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that is killed, and would write beside the next build's."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _in_process(function: Callable[[T], R], tasks: Sequence[T], weights: Sequence[int], done: Done) -> Iterator[R]:
    finished = 0
    for task, weight in zip(tasks, weights, strict=True):
        yield function(task)
        finished += weight
        done(finished, sum(weights))
