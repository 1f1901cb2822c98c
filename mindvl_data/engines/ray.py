"""Tasks on a Ray cluster: the engine, and its connection.

Files go through the folder that all nodes share; what goes through Ray are tasks and their small results.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mindvl_data.engines import Done, EngineError, EngineOptions, R, T, nodes, silent
from mindvl_data.engines.cluster import Cluster, Raised
from mindvl_data.engines.flight import KEPT, LESS_MEMORY, Flight
from mindvl_data.runtime import fingerprints

KNOCK_SECONDS = 10.0
# Of what Ray says where it does not connect: versions that differ stand in several lines.
MOST_SAID = 400


def opened(options: EngineOptions) -> RayEngine:
    """The cluster at an address; by default the one that RAY_ADDRESS names, or that this machine is a node of."""
    return RayEngine(options.address or os.environ.get("RAY_ADDRESS") or "auto", options.workers)


class RayEngine:
    """Connected with the first work to do. Results come in the order of the tasks.

    most: tasks that may run at a time, for a share of a cluster that others use; by default as many as it has CPUs.
    """

    less_memory = LESS_MEMORY
    elsewhere = True

    def __init__(self, address: str = "auto", most: int | None = None) -> None:
        self.address = address
        self._most = most
        self._shared: tuple[Path | None, Sequence[Path]] = None, ()
        self._cluster: Cluster | None = None
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
        device: str = "cpu",
    ) -> list[R]:
        """See Engine.run; also a single task goes out to the cluster."""
        if not tasks:
            return []
        cluster = self._connected()
        flight = Flight(cluster, function, tasks, sizes, self._most, cluster.resources(device))
        try:
            with _understood(self.address):
                flight.finish(done)
        except Raised as raised:
            raise raised.error from raised.__cause__
        finally:
            flight.cancel()
        return flight.results

    def _connected(self) -> Cluster:
        if self._cluster is None:
            with contextlib.ExitStack() as stack:
                ray = stack.enter_context(_connection(self.address))
                wanted = stack.enter_context(_marked(*self._shared))
                with _understood(self.address):
                    cluster = Cluster(ray, wanted)
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
            said = " ".join(str(error).split())[:MOST_SAID]
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
