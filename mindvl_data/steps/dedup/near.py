"""Near search by buckets: whatever two things share a key of a table is compared, and there are several tables.

Cost is a sort a table and the comparisons; a bucket is compared with so many of its neighbours at most, so that no
crowd makes the whole quadratic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Pairs: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64]]
# Whether each of so many pairs is near: (left, right) -> bool.
Near: TypeAlias = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
NEIGHBOURS = 256


def near_within(tables: Iterable[NDArray[np.uint64]], near: Near) -> Pairs:
    """Pairs of near things that share a bucket of some table, each pair once a table at most.

    In a bucket of more than 256 each is compared with the 256 after it.

    Args:
        tables: Keys, uint64 [n].
        near: Which of the pairs are near.
    """
    found: list[Pairs] = []
    for keys in tables:
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        at = np.arange(len(order) - 1)
        for step in range(1, NEIGHBOURS + 1):
            at = at[at < len(order) - step]
            at = at[ordered[at] == ordered[at + step]]
            if not len(at):
                break
            _add(found, order[at], order[at + step], near)
    return _joined(found)


def near_between(tables: Iterable[tuple[NDArray[np.uint64], NDArray[np.uint64]]], near: Near) -> Pairs:
    """Pairs (left, right) of near things of two kinds that share a bucket.

    Of a bucket each on the left is compared with 256 on the right at most.

    Args:
        tables: Keys of either, uint64 [n], [m].
    """
    found: list[Pairs] = []
    for left, right in tables:
        order = np.argsort(right, kind="stable")
        start, end = (np.searchsorted(right[order], left, side) for side in ("left", "right"))
        at = np.arange(len(left))
        for step in range(NEIGHBOURS):
            at = at[start[at] + step < end[at]]
            if not len(at):
                break
            _add(found, at, order[start[at] + step], near)
    return _joined(found)


def _add(found: list[Pairs], left: NDArray[np.int64], right: NDArray[np.int64], near: Near) -> None:
    close = near(left, right)
    if close.any():
        found.append((left[close], right[close]))


def _joined(found: list[Pairs]) -> Pairs:
    none = np.zeros(0, np.int64)
    return np.concatenate([none, *(left for left, _ in found)]), np.concatenate([none, *(right for _, right in found)])
