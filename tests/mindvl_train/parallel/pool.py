"""Processes that wait for work: one pool serves every parallel test, forked from one process that has torch imported.

A job is a module-level function `job(folder, *arguments)`, run on the first n processes as n gloo ranks of a
process group of their own; what rank 0 returns is the result.
"""

import gc
import multiprocessing as mp
import os
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TIMEOUT = 120
# Imported once, by the process that the others are forked from. It is none that has Polars or threads.
PRELOADED = ["mindvl_train.loop.run", "tests.mindvl_train.parallel.one_step"]


class Pool:
    """Grows to the largest number of ranks that a test asks for."""

    def __init__(self) -> None:
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._workers: list[tuple[mp.process.BaseProcess, Connection]] = []

    def run(self, ranks: int, job: Callable[..., Any], *arguments: Any) -> Any:
        """What `job` returns on rank 0; a failure on any rank is raised with its traceback."""
        while len(self._workers) < ranks:
            ours, theirs = self._context.Pipe()
            worker = self._context.Process(target=_work, args=(theirs,), daemon=True)
            worker.start()
            self._workers.append((worker, ours))
        with tempfile.TemporaryDirectory() as folder:
            for rank, (_, connection) in enumerate(self._workers[:ranks]):
                connection.send((rank, ranks, folder, job, arguments))
            return self._collect(ranks)

    def _collect(self, ranks: int) -> Any:
        answers: list[Any] = []
        for rank, (_, connection) in enumerate(self._workers[:ranks]):
            if not connection.poll(TIMEOUT):
                self.close()
                raise TimeoutError(f"rank {rank} of {ranks} hangs; the others said {answers}")
            answers.append(connection.recv())
        failures = [f"rank {rank}: {why}" for rank, (why, _) in enumerate(answers) if why]
        if failures:
            # Ranks that lost a peer in a collective are of no more use.
            self.close()
            raise AssertionError("\n".join(failures))
        return answers[0][1]

    def close(self) -> None:
        """Ends the processes; the next job starts fresh ones."""
        for worker, connection in self._workers:
            connection.close()
            worker.kill()
            worker.join()
        self._workers = []


def _work(connection: Connection) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    while True:
        try:
            rank, ranks, folder, job, arguments = connection.recv()
        except EOFError:
            return
        try:
            meet = f"file://{folder}/meet"
            dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=ranks)
            result = job(Path(folder), *arguments)
            dist.barrier()
            dist.destroy_process_group()
            # Meshes lie in cycles, and with each of their groups threads that wake a hundred times a second.
            gc.collect()
            connection.send((None, result if rank == 0 else None))
        except BaseException:  # noqa: BLE001 -- whatever it is, the test wants to see it
            connection.send((traceback.format_exc(), None))
