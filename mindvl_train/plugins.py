"""Everything that can be exchanged (models, published families, accelerators, kernels, …) is found here.

A plugin is a Python entry point: a third-party package names its object under one of our groups and is
found without a line of ours changing. What we ship is registered the same way, in `pyproject.toml`.
"""

import difflib
from functools import cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from mindvl_data.errors import UserError

MODELS = "mindvl_train.models"
ACCELERATORS = "mindvl_train.accelerators"
KERNELS = "mindvl_train.kernels"
SCHEDULES = "mindvl_train.schedules"
LOGGERS = "mindvl_train.loggers"
CALLBACKS = "mindvl_train.callbacks"
PUBLISHED = "mindvl_train.published"


class PluginError(UserError):
    """A plugin that is not installed, or is installed twice under one name."""


@cache
def installed(group: str) -> EntryPoints:
    """Read once a process, because it opens a file of every package that is installed."""
    return entry_points(group=group)


def available(group: str) -> dict[str, EntryPoint]:
    """The entry points of `group` by name, sorted, not yet imported.

    Raises:
        PluginError: two installed packages register the same name for different objects.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(installed(group), key=lambda point: point.name):
        earlier = found.setdefault(point.name, point)
        if earlier.value != point.value:
            raise PluginError(
                f"{group}: two packages register {point.name!r} ({earlier.value} and {point.value}); "
                "uninstall one of them"
            )
    return found


def load(group: str, name: str) -> Any:
    """Imports and returns the object registered as `name` in `group`.

    Raises:
        PluginError: nothing is registered under that name; the message names the nearest and all known ones.
    """
    known = available(group)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? Known: " if near else "known: "
        raise PluginError(f"{group}: no plugin named {name!r}; {hint}{', '.join(known) or 'none'}")
    return known[name].load()
