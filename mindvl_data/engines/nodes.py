"""What every machine of a cluster must have before a task runs there: this code, its libraries, the same files.

Checked by the worker process itself, once for each build, so that a machine that joins later is checked as well.
"""

from __future__ import annotations

import functools
import hashlib
import pickle
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypedDict

import mindvl_data
from mindvl_data.engines.worker import leave_pandas_out
from mindvl_data.runtime import fingerprints, reached

OURS = "mindvl_data"


class Wanted(TypedDict):
    """What a machine is checked for: builtin types alone, so that one with other code can read it.

    installed: see `installed`. files: path → hash of its content.
    """

    installed: dict[str, str]
    files: dict[str, str]


@functools.cache
def installed() -> Mapping[str, str]:
    """What the bytes of a build depend on, by name: Python, this package's code, its libraries, plugins of others."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"Python": python, OURS: _own_code(), **reached.versions(), **_plugins()}


def _own_code() -> str:
    """The version, and a hash of all sources: two checkouts of one version differ."""
    folder = Path(mindvl_data.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"{mindvl_data.__version__} ({digest.hexdigest()[:12]})"


def _plugins() -> dict[str, str]:
    """The code of sources, scores and the like that other packages bring."""
    groups = [group for group in entry_points().groups if group.startswith(f"{OURS}.")]
    points = [point for group in groups for point in entry_points(group=group)]
    foreign = {point.module: point for point in points if point.module.partition(".")[0] != OURS}
    return {f"the plugin {module}": _code(point) for module, point in sorted(foreign.items())}


def _code(point: EntryPoint) -> str:
    try:
        return reached.code(point.module)
    except ModuleNotFoundError:  # compiled, or of a package that is broken here: what uses it will say so
        return str(point.dist.version if point.dist else "")


def problems(wanted: Wanted) -> list[str]:
    """What is not on this machine as it is wanted, each for the end of a sentence about it."""
    here = installed()
    differing = [
        f"has {name} {here.get(name, 'not at all')}, the build runs with {version}"
        for name, version in wanted["installed"].items()
        if here.get(name) != version
    ]
    return differing + [
        f"does not see {path} as it is" for path, known in wanted["files"].items() if _at(path) != known
    ]


def _at(path: str) -> str | None:
    try:
        return fingerprints.of_file(Path(path))
    except OSError:
        return None


# What this process was found to have, so that it is not looked for before every task.
_sound: list[Wanted] = []


def look(wanted: Wanted) -> list[str]:
    """The problems of this machine; it is set up for tasks when there are none."""
    if wanted in _sound:
        return []
    found = problems(wanted)
    if not found:
        leave_pandas_out()
        _sound[:] = [wanted]
    return found


def call(wanted: Wanted, payload: bytes) -> tuple[list[str], Any]:
    """The problems of this machine and, where there are none, the result of a pickled (function, task)."""
    found = look(wanted)
    if found:
        return found, None
    function, task = pickle.loads(payload)
    return [], function(task)


def leave_mark(path: Path) -> str | None:
    """Write where tasks will; what hinders this machine."""
    try:
        path.write_text("")
    except OSError as error:
        return f"cannot write into {path.parent} ({error.strerror})"
    return None


def nothing(_: None) -> None:
    """A task for a machine that is to be looked at and does not share a folder."""
