"""Tasks on a Ray cluster: sent again when a worker or a node is lost, and so few at a time that the driver stays small.

Ray's own retries are off: they neither ask for more memory after a task was killed for it, nor say what they do. Files
go through the folder that all nodes share; what goes through Ray are tasks and their small results.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mindvl_data.engines import Done, EngineError, EngineOptions, R, T, nodes, silent
from mindvl_data.engines.worker import ONE_THREAD
from mindvl_data.runtime import fingerprints

LOG = logging.getLogger(__name__)

# What a task holds beside its input: libraries, a tokenizer, a window of images; and of its input at most so much.
TASK_BYTES = 512 << 20
MOST_INPUT_BYTES = 512 << 20
# How often a task may lose its worker: one that kills them is not tried for ever, nodes leave for reasons of their own.
MOST_LOST = {"memory": 3, "worker": 3, "node": 20}
# Tasks in flight for every CPU: one runs, one waits, so that no CPU does; and for a cluster that has yet to grow.
PER_CPU, LEAST_IN_FLIGHT = 2, 8
POLL_SECONDS = 1.0
KNOCK_SECONDS = 10.0
# A node that does not answer in this time to the question what is installed there.
ANSWER_SECONDS = 120.0
UNPLACED_SECONDS = 60.0
NODE_LABEL = "ray.io/node-id"
KEPT = "what was finished is kept: run the same command again"
LOST = {
    "memory": f"a task ran out of memory {{}} times, on ever emptier nodes; {KEPT}, {{less}}",
    "worker": f"a worker process died {{}} times in a task (killed, or out of memory); {KEPT}, {{less}} for memory",
    "node": f"{{}} nodes were lost one after the other while they ran the same task; {KEPT}",
}


def opened(options: EngineOptions) -> RayEngine:
    """The cluster at an address; by default the one that RAY_ADDRESS names, or that this machine is a node of."""
    return RayEngine(options.address or os.environ.get("RAY_ADDRESS") or "auto", options.workers)


class RayEngine:
    """Connected with the first work to do. Results come in the order of the tasks.

    most: tasks that may run at a time, for a share of a cluster that others use; by default as many as it has CPUs.
    """

    less_memory = "with fewer tasks at a time (--workers), or on nodes with more memory"

    def __init__(self, address: str = "auto", most: int | None = None) -> None:
        self.address = address
        self._most = most
        self._shared: tuple[Path | None, Sequence[Path]] = None, ()
        self._cluster: _Cluster | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cluster = None
        self._open.close()

    @property
    def workers(self) -> int:
        """As many as CPUs now, or as may run: it changes when nodes come and go."""
        return self._most or max(1, self._connected().cpus)

    def share(self, folder: Path | None, files: Sequence[Path]) -> None:
        self._shared = folder, files

    def run(
        self,
        function: Callable[[T], R],
        tasks: Sequence[T],
        done: Done = silent,
        sizes: Sequence[int] | None = None,
    ) -> list[R]:
        """See Engine.run; also a single task goes out to the cluster."""
        if not tasks:
            return []
        cluster = self._connected()
        flight = _Flight(cluster, function, tasks, sizes, self._most)
        try:
            with _understood(self.address):
                flight.finish(done)
        finally:
            flight.cancel()
        return flight.results

    def _connected(self) -> _Cluster:
        if self._cluster is None:
            with contextlib.ExitStack() as stack:
                ray = stack.enter_context(_connection(self.address))
                wanted = stack.enter_context(_marked(*self._shared))
                with _understood(self.address):
                    cluster = _Cluster(ray, wanted)
                    cluster.check(self._shared[0])
                self._open, self._cluster = stack.pop_all(), cluster
        return self._cluster


# ------------------------------------------------------------------------------------------ connection


@contextlib.contextmanager
def _connection(address: str) -> Iterator[Any]:
    """The package `ray`, connected; a connection that this process has already is used and left."""
    try:
        import ray
    except ImportError as error:
        raise EngineError(f"--engine ray needs the extra [ray]: pip install 'mindvl[ray]' ({error})") from error
    if ray.is_initialized():
        yield ray
        return
    # What raylets say of themselves Ray prints on standard output, which is the command's own.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            said = str(error).strip().split("\n")[0]
            raise EngineError(
                f"no Ray cluster answers at {address} ({said}). Start one (`ray start --head`, and on other machines "
                "`ray start --address=HOST:6379`), or name another with --address"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


@contextlib.contextmanager
def _marked(folder: Path | None, files: Sequence[Path]) -> Iterator[nodes.Wanted]:
    """What nodes must have. A file in the shared folder tells it from another machine's folder of the same name."""
    seen = list(files)
    if folder is not None:
        seen.append(folder.absolute() / f".shared-{secrets.token_hex(4)}.partial")
        seen[-1].write_text(secrets.token_hex())
    try:
        hashes = {str(path.absolute()): fingerprints.of_file(path) for path in seen}
        yield {"installed": dict(nodes.installed()), "files": hashes}
    finally:
        for path in folder.glob(".shared-*.partial") if folder else ():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _understood(address: str) -> Iterator[None]:
    """Ray's troubles with the cluster itself as an EngineError."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, ConnectionError) as error:
        said = str(error).strip().split("\n")[0]
        raise EngineError(f"the Ray cluster at {address} failed ({type(error).__name__}: {said}); {KEPT}") from error


def _shipped() -> Callable[[nodes.Wanted, bytes], tuple[str, list[str], Any]]:
    """What Ray runs. It travels as code, not by name, so that a node without this package can say so."""

    def call(wanted: nodes.Wanted, payload: bytes) -> tuple[str, list[str], Any]:
        import ray

        node = ray.get_runtime_context().get_node_id()
        try:
            from mindvl_data.engines.nodes import call
        except ImportError as error:
            return node, [f"has no mindvl_data, or another version of it ({error})"], None
        return node, *call(wanted, payload)

    return call


# --------------------------------------------------------------------------------------------- cluster


class _Cluster:
    """The nodes: how much they have, and which of them must not run tasks. wanted: what each must have."""

    def __init__(self, ray: Any, wanted: nodes.Wanted) -> None:
        self.ray = ray
        self._wanted = ray.put(wanted)
        self._remote = ray.remote(max_retries=0, runtime_env={"env_vars": ONE_THREAD})(_shipped())
        self._refused: set[str] = set()
        self._nodes: list[Mapping[str, Any]] = []
        self._used = 0
        self._asked = -POLL_SECONDS

    def _look(self) -> None:
        if time.monotonic() - self._asked < POLL_SECONDS:
            return
        self._nodes = [node for node in self.ray.nodes() if node["Alive"]]
        free = self.ray.available_resources().get("CPU", 0)
        self._used = round(sum(node["Resources"].get("CPU", 0) for node in self._nodes) - free)
        self._asked = time.monotonic()

    @property
    def nodes(self) -> Sequence[Mapping[str, Any]]:
        """Those alive that run tasks, as they were a second ago."""
        self._look()
        mine = [node for node in self._nodes if node["NodeID"] not in self._refused]
        return [node for node in mine if node["Resources"].get("CPU", 0) >= 1]

    @property
    def cpus(self) -> int:
        return int(sum(node["Resources"]["CPU"] for node in self.nodes))

    @property
    def used(self) -> int:
        """How many CPUs are at work, by other users of the cluster too."""
        self._look()
        return self._used

    def send(self, function: Callable[[T], R], task: T, memory: int = 0, **options: Any) -> Any:
        """A reference to the answer. memory: bytes; a task that wants more than any node has gets the largest."""
        most = int(max((node["Resources"].get("memory", 0) for node in self.nodes), default=0))
        if self._refused:
            options["label_selector"] = {NODE_LABEL: f"!in({','.join(sorted(self._refused))})"}
        remote = self._remote.options(memory=min(memory, most) or None, **options)
        return remote.remote(self._wanted, self.ray.cloudpickle.dumps((function, task)))

    def answer(self, ref: Any) -> tuple[str, list[str], Any]:
        """The node, what is wrong with it, and the task's result. Raises what the task raised."""
        try:
            answer: tuple[str, list[str], Any] = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from error
        return answer

    def refuse(self, node: str, problems: Sequence[str]) -> None:
        """A node that joined later and is not like the others gets no tasks."""
        if node not in self._refused:
            LOG.warning("no tasks go to the node %s, which %s", self._named(node), ", and ".join(problems))
            self._refused.add(node)

    def check(self, folder: Path | None) -> None:
        """Ask every node what it has, and to write where tasks will. Raises EngineError naming those that differ."""
        asked = {self._ask(node["NodeID"], folder): node["NodeID"] for node in self.nodes}
        ended, late = self.ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
        found = [f"{self._named(asked[ref])} does not answer" for ref in late]
        for ref in ended:
            # A node that leaves meanwhile needs no answer.
            with contextlib.suppress(self.ray.exceptions.NodeDiedError):
                node, problems, hindrance = self.answer(ref)
                problems += [hindrance] if hindrance else []
                found += [f"{self._named(node)} {problem}" for problem in problems or _unseen(folder, node)]
        if found:
            lines = "".join(f"\n  {line}" for line in sorted(found))
            raise EngineError(
                f"not every node of the cluster can run this build:{lines}\nInstall the same on all nodes, let them "
                "see the same folders under the same paths, or take the others out of the cluster (docs/scale.md)"
            )

    def _ask(self, node: str, folder: Path | None) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        there = NodeAffinitySchedulingStrategy(node, soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": there}
        if folder is None:
            return self.send(nodes.nothing, None, **options)
        # A look at what is not there yet, which a network file system remembers: see _unseen.
        assert not _mark(folder, node).exists()
        return self.send(nodes.leave_mark, _mark(folder, node), **options)

    def _named(self, node: str) -> str:
        found = [each for each in self._nodes if each["NodeID"] == node]
        return f"{found[0]['NodeManagerHostname']} ({found[0]['NodeManagerAddress']})" if found else node


def _mark(folder: Path, node: str) -> Path:
    return folder.absolute() / f".shared-{node}.partial"


def _unseen(folder: Path | None, node: str) -> list[str]:
    """Whether a file that a node wrote is seen here at once, as every step expects of those before it."""
    if folder is None or _mark(folder, node).exists():
        return []
    return [
        f"writes files into {folder} that are not seen here at once; on NFS mount it with lookupcache=positive on "
        "this machine and on all nodes"
    ]


# ---------------------------------------------------------------------------------------------- flight


@dataclass
class _Task:
    """lost: how often, by what became of its worker."""

    index: int
    memory: int
    lost: Counter[str] = field(default_factory=Counter)


class _Flight:
    """The tasks of one run: those that wait here, those sent, and the results of the others, by their order."""

    def __init__(
        self,
        cluster: _Cluster,
        function: Callable[[T], R],
        tasks: Sequence[T],
        sizes: Sequence[int] | None,
        most: int | None,
    ) -> None:
        self._cluster, self._function, self._tasks, self._most = cluster, function, tasks, most
        self._weights = sizes or [1] * len(tasks)
        inputs = sizes or [0] * len(tasks)
        memory = [TASK_BYTES + min(size, MOST_INPUT_BYTES) for size in inputs]
        self._waiting = deque(_Task(index, wanted) for index, wanted in enumerate(memory))
        self._sent: dict[Any, _Task] = {}
        self._finished, self._sent_again = 0, 0
        self._moved = time.monotonic()
        self.results: list[Any] = [None] * len(tasks)

    def finish(self, done: Done) -> None:
        """Send and take answers until there is nothing left. Raises what a task raised, or EngineError."""
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
            ref = self._cluster.send(self._function, self._tasks[task.index], task.memory, num_cpus=1)
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
        except (errors.OutOfMemoryError, MemoryError) as error:
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
            raise EngineError(LOST[kind].format(task.lost[kind], less=RayEngine.less_memory)) from error
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
