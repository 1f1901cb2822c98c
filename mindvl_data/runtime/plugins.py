"""Parts by name through Python entry points: what we ship is found the way a third party's package is."""

from __future__ import annotations

import difflib
import functools
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mindvl_data.errors import UserError


class PluginError(UserError):
    """A plugin that is not installed, or is installed twice under one name."""


def names(group: str) -> list[str]:
    return sorted(available(group))


def available(group: str) -> dict[str, EntryPoint]:
    """The entry points of a group by name, sorted, not yet imported.

    Raises:
        PluginError: Two installed packages register one name for different objects.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(_registered(tuple(sys.path)).select(group=group), key=lambda point: point.name):
        earlier = found.setdefault(point.name, point)
        if earlier.value != point.value:
            raise PluginError(
                f"{group}: two packages register {point.name!r} ({earlier.value} and {point.value}); uninstall one"
            )
    return found


@functools.cache
def _registered(path: tuple[str, ...]) -> Any:
    """What all packages on this `sys.path` register, to `select` a group from (of a type that Python 3.12 changed): to
    look through them takes a tenth of a second."""
    return entry_points()


@functools.cache
def load(group: str, name: str) -> Any:
    """The object registered as `name` in a group, for example `mindvl_data.sources`; found once a process.

    Raises:
        PluginError: No package registers that name, or two do; the message lists those there are.
    """
    known = available(group)
    if name in known:
        return known[name].load()
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise PluginError(f"no {group} plugin is called {name!r}; {hint}there are: {', '.join(known) or 'none'}")
