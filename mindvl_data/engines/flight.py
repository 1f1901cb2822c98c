"""The tasks of one run on a Ray cluster: so many in flight that no CPU waits, sent again when a worker or node is lost.

Ray's own retries are off: they neither ask for more memory after a task was killed for it, nor say what they do.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mindvl_data.engines import Done, EngineError, R, T
from mindvl_data.engines.cluster import POLL_SECONDS, Cluster, Raised

LOG = logging.getLogger(__name__)

# What a task holds beside its input: libraries, a tokenizer, a window of images; and of its input at most so much.
TASK_BYTES = 512 << 20
MOST_INPUT_BYTES = 512 << 20
# Tasks in flight for every CPU: one runs, one waits, so that no CPU does; and for a cluster that has yet to grow.
PER_CPU, LEAST_IN_FLIGHT = 2, 8
UNPLACED_SECONDS = 60.0
# How often a task may lose its worker: one that kills them is not tried for ever, nodes leave for reasons of their own.
MOST_LOST = {"memory": 3, "worker": 3, "node": 20}
KEPT = "what was finished is kept: run the same command again"
LESS_MEMORY = "with fewer tasks at a time (--workers), or on nodes with more memory"
LOST = {
    "memory": f"a task ran out of memory {{}} times, on ever emptier nodes; {KEPT}, {LESS_MEMORY}",
    "worker": f"a worker process died {{}} times in a task (killed, or out of memory); {KEPT}, {LESS_MEMORY}",
    "node": f"{{}} nodes were lost one after the other while they ran the same task; {KEPT}",
}


@dataclass
class _Task:
    """lost: how often, by what became of its worker."""

    index: int
    memory: int
    lost: Counter[str] = field(default_factory=Counter)


class Flight:
    """The tasks of one run: those that wait here, those sent, and the results of the others, by their order."""

    def __init__(
        self,
        cluster: Cluster,
        function: Callable[[T], R],
        tasks: Sequence[T],
        sizes: Sequence[int] | None,
        most: int | None,
        resources: Mapping[str, float],
    ) -> None:
        self._cluster, self._function, self._tasks, self._most = cluster, function, tasks, most
        self._resources = resources
        self._weights = sizes or [1] * len(tasks)
        inputs = sizes or [0] * len(tasks)
        memory = [TASK_BYTES + min(size, MOST_INPUT_BYTES) for size in inputs]
        self._waiting = deque(_Task(index, wanted) for index, wanted in enumerate(memory))
        self._sent: dict[Any, _Task] = {}
        self._finished, self._sent_again = 0, 0
        self._moved = time.monotonic()
        self.results: list[Any] = [None] * len(tasks)

    def finish(self, done: Done) -> None:
        """Send and take answers until there is nothing left. Raises Raised, or EngineError."""
        while self._waiting or self._sent:
            self._send()
            for ref in self._ended():
                self._take(ref)
            done(self._finished, sum(self._weights), self._note())

    def cancel(self) -> None:
        """End what is at work still; of a worker that does not listen, the process."""
        for ref in self._sent:
            with contextlib.suppress(self._cluster.ray.exceptions.RayError, ConnectionError):
                self._cluster.ray.cancel(ref, force=True)
        self._sent.clear()

    def _send(self) -> None:
        most = self._most or max(LEAST_IN_FLIGHT, PER_CPU * self._cluster.cpus)
        while self._waiting and len(self._sent) < most:
            task = self._waiting.popleft()
            ref = self._cluster.send(
                self._function, self._tasks[task.index], task.memory, num_cpus=1, **self._resources
            )
            self._sent[ref] = task

    def _ended(self) -> Sequence[Any]:
        """References of tasks that ended, as soon as there are any; none after a second."""
        wait = self._cluster.ray.wait
        if not wait(list(self._sent), num_returns=1, timeout=POLL_SECONDS)[0]:
            return []
        ended: Sequence[Any] = wait(list(self._sent), num_returns=len(self._sent), timeout=0)[0]
        return ended

    def _take(self, ref: Any) -> None:
        task, errors = self._sent.pop(ref), self._cluster.ray.exceptions
        try:
            node, problems, result = self._cluster.answer(ref)
        except Raised as raised:
            if not isinstance(raised.error, MemoryError):
                raise
            self._again(task, "memory", raised.error)
        except errors.OutOfMemoryError as error:
            self._again(task, "memory", error)
        except (errors.WorkerCrashedError, errors.ObjectLostError, errors.RuntimeEnvSetupError) as error:
            self._again(task, "worker", error)
        except errors.NodeDiedError as error:
            self._again(task, "node", error)
        else:
            self._moved = time.monotonic()
            if problems:
                self._cluster.refuse(node, problems)
                self._waiting.appendleft(task)
                return
            self.results[task.index] = result
            self._finished += self._weights[task.index]

    def _again(self, task: _Task, kind: str, error: Exception) -> None:
        """Send a task once more whose worker was lost, unless that happens to it wherever it goes."""
        task.lost[kind] += 1
        self._sent_again += 1
        if task.lost[kind] >= MOST_LOST[kind]:
            raise EngineError(LOST[kind].format(task.lost[kind])) from error
        if kind != "node":
            # Few beside it then; whether it was memory is not always known.
            task.memory *= 2
        self._waiting.appendleft(task)

    def _note(self) -> str:
        if not self._waiting and not self._sent:
            return ""
        running = min(len(self._sent), max(0, self._cluster.used))
        waiting = len(self._waiting) + len(self._sent) - running
        if not running and time.monotonic() - self._moved > UNPLACED_SECONDS:
            LOG.warning("no node has had a free CPU and memory for a task for a minute; the build waits")
            self._moved = time.monotonic()
        lost = f", {self._sent_again} lost and sent again" if self._sent_again else ""
        return f"{running} running, {waiting} waiting{lost}"
