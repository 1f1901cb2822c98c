"""The nodes of a Ray cluster: how much they have, what is installed there, and a task sent to one of them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mindvl_data.engines import EngineError, R, T, nodes
from mindvl_data.engines.worker import ONE_THREAD

LOG = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# A node that does not answer in this time to the question what is installed there.
ANSWER_SECONDS = 120.0
NODE_LABEL = "ray.io/node-id"
# What Ray calls the devices of a recipe.
DEVICES = {"auto": "GPU", "cuda": "GPU", "npu": "NPU"}


class Raised(Exception):  # noqa: N818 - no fault of the cluster's
    """What a task raised, told from Ray's own troubles."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Cluster:
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

    def resources(self, device: str) -> dict[str, Any]:
        """Options of a task that takes such a device. Raises EngineError where no node has one."""
        name = DEVICES.get(device)
        if name is None or (device == "auto" and not self._has(name)):
            return {}
        if not self._has(name):
            raise EngineError(
                f"no node of the cluster has the device {device} (Ray's resource {name}) that a score wants; add one, "
                "or let the score run on another with its `device`"
            )
        return {"num_gpus": 1} if name == "GPU" else {"resources": {name: 1}}

    def _has(self, resource: str) -> bool:
        return any(node["Resources"].get(resource, 0) >= 1 for node in self.nodes)

    def send(self, function: Callable[[T], R], task: T, memory: int = 0, **options: Any) -> Any:
        """A reference to the answer.

        Args:
            memory: Bytes; a task that wants more than any node has gets the largest.
        """
        most = int(max((node["Resources"].get("memory", 0) for node in self.nodes), default=0))
        if self._refused:
            options["label_selector"] = {NODE_LABEL: f"!in({','.join(sorted(self._refused))})"}
        remote = self._remote.options(memory=min(memory, most) or None, **options)
        return remote.remote(self._wanted, self.ray.cloudpickle.dumps((function, task)))

    def answer(self, ref: Any) -> tuple[str, list[str], Any]:
        """The node, what is wrong with it, and the task's result.

        Raises:
            Raised: The task raised something.
            RayError: Ray lost the task.
        """
        try:
            answer: tuple[str, list[str], Any] = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as error:
            raise Raised(error.cause or error) from error
        return answer

    def refuse(self, node: str, problems: Sequence[str]) -> None:
        """A node that joined later and is not like the others gets no tasks. Raises EngineError where none is left."""
        if node not in self._refused:
            LOG.warning("no tasks go to the node %s, which %s", self._named(node), ", and ".join(problems))
            self._refused.add(node)
        if not self.nodes:
            raise EngineError(
                f"no node of the cluster can run this build any more: {self._named(node)} {', and '.join(problems)}. "
                "Install the same everywhere and run the same command again"
            )

    def check(self, folder: Path | None) -> None:
        """Ask every node what it has, and to write where tasks will. Raises EngineError naming those that differ."""
        asked = {self._ask(node["NodeID"], folder): node["NodeID"] for node in self.nodes}
        ended, late = self.ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
        found = [f"{self._named(asked[ref])} does not answer" for ref in late]
        for ref in ended:
            # A node that leaves meanwhile needs no answer, also where it left before the question reached it.
            gone = (self.ray.exceptions.NodeDiedError, self.ray.exceptions.TaskUnschedulableError)
            with contextlib.suppress(*gone):
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
        # Which also looks for it: that it was not there a network file system remembers, see _unseen.
        _mark(folder, node).unlink(missing_ok=True)
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
