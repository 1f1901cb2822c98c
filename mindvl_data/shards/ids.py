"""Sample ids as columns, and where one stands among others."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def places_among(known: NDArray[np.uint64], asked: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where ids stand among known ones.

    Args:
        known: uint64 [n, 2], the halves of ids as they lie in memory.
        asked: uint64 [m, 2], likewise.

    Returns:
        int64 [m]; -1 of an id that is not known.
    """
    if not len(known):
        return np.full(len(asked), -1)
    # The order of bytes is as good as any: equal ids lie side by side in it.
    names = np.ascontiguousarray(known).view("S16").ravel()
    order = np.argsort(names, kind="stable")
    place = np.searchsorted(names[order], np.ascontiguousarray(asked).view("S16").ravel())
    hit = order[np.minimum(place, len(known) - 1)]
    return np.where((known[hit] == asked).all(axis=1), hit, -1)
