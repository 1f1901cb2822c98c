"""Where tasks run: an engine runs a pure function over tasks. Each is a plugin of the group `mindvl_data.engines`.

local.py    in this process, or in processes that it starts
ray.py      on a Ray cluster
cluster.py  its nodes, and a task sent to one of them
flight.py   the tasks of one run there: in flight, lost, sent again
nodes.py    what every machine of a cluster must have before a task runs there
worker.py   what every worker process sets up before its first task
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from mindvl_data.errors import UserError
from mindvl_data.runtime import plugins

__all__ = ["Done", "Engine", "EngineError", "EngineOptions", "engine_of"]

GROUP = "mindvl_data.engines"

T = TypeVar("T")
R = TypeVar("R")


class EngineError(UserError):
    """What tasks run on failed: a worker died, out of memory or killed, or there is no such engine."""


class Done(Protocol):
    """Called as tasks end: how much is finished of how much, and what an engine has to say of the rest."""

    def __call__(self, finished: int, of: int, note: str = "") -> None: ...


def silent(finished: int, of: int, note: str = "") -> None:
    """Nobody looks."""


class Engine(Protocol):
    """Where tasks run. A context manager: on leaving, no task of it runs any more.

    workers: how many tasks run at a time; nothing that is built depends on it. less_memory: what to do where memory
    was short, for the end of a message. elsewhere: whether tasks run on other machines, so that also what would take
    the whole of this one is sent out.
    """

    @property
    def workers(self) -> int: ...

    @property
    def less_memory(self) -> str: ...

    @property
    def elsewhere(self) -> bool: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def share(self, folder: Path | None, files: Sequence[Path]) -> None:
        """Say where tasks write, if they do, and some files that they read: each machine that runs any must have both.

        Before the first `run`.
        """
        ...

    def run(
        self,
        function: Callable[[T], R],
        tasks: Sequence[T],
        done: Done = silent,
        sizes: Sequence[int] | None = None,
        device: str = "cpu",
    ) -> list[R]:
        """`[function(task) for task in tasks]`, in whatever order they are run.

        Args:
            function: At the top level of a module; it may run more than once for a task.
            done: Called as tasks end.
            sizes: Of the tasks in bytes, what `done` counts in; by default each counts one.
            device: Of which each task takes one where tasks run elsewhere: cpu, cuda, npu, or auto for cuda where
                there is any.

        Raises:
            EngineError: A worker died, or memory was short.
            Exception: Whatever the function raised first.
        """
        ...


@dataclass(frozen=True)
class EngineOptions:
    """What the command line says of an engine. workers: None for as many as there are cores. address: of a cluster."""

    workers: int | None = None
    address: str | None = None


def engine_of(name: str, options: EngineOptions) -> Engine:
    """The engine registered under a name. Raises PluginError, and EngineError for options that it has no use for."""
    opened: Any = plugins.load(GROUP, name)
    engine: Engine = opened(options)
    return engine
