"""Parts by name through Python entry points: what we ship is found the way a third party's package is."""

from __future__ import annotations

import difflib
import functools
import sys
from importlib.metadata import EntryPoints, entry_points
from typing import Any

from mindvl_data.errors import UserError


class UnknownPlugin(UserError):  # noqa: N818 - reads as what it is
    """No installed package offers a part of that name; the message lists those there are."""


def names(group: str) -> list[str]:
    return sorted({point.name for point in _registered(group, tuple(sys.path))})


@functools.cache
def _registered(group: str, path: tuple[str, ...]) -> EntryPoints:
    """What all packages on this `sys.path` register: to look through them takes a tenth of a second."""
    return entry_points(group=group)


@functools.cache
def load(group: str, name: str) -> Any:
    """The object registered as `name` in the entry-point group, for example `mindvl_data.sources`.

    Found once a process.
    """
    found = list(_registered(group, tuple(sys.path)).select(name=name))
    if len({point.value for point in found}) > 1:
        places = ", ".join(point.value for point in found)
        raise UnknownPlugin(f"{name!r} in {group} is offered by several packages ({places}); remove one")
    if found:
        return found[0].load()
    known = names(group)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownPlugin(f"no {group} plugin is called {name!r}; {hint}there are: {', '.join(known) or 'none'}")
