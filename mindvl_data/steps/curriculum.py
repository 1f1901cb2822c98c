"""A curriculum: draws in rising order of a column, packed a window at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rising(
    values: NDArray[np.floating], groups: NDArray[np.integer] | None = None, descending: bool = False
) -> NDArray[np.int64]:
    """Draws in the order of their values, int64 [n].

    Args:
        values: Of every draw, in the order drawn; NaN is missing.
        groups: Of every draw a number: each group rises by itself and is spread evenly over the whole, so that its
            share is the same from beginning to end.
        descending: Whether it falls.

    Draws of equal value stay in the order drawn; those without one are spread evenly over their group.
    """
    along = np.empty(len(values))
    signed = -values if descending else values
    for number in [None] if groups is None else np.unique(groups):
        mine = np.arange(len(values)) if number is None else np.flatnonzero(groups == number)
        known = ~np.isnan(signed[mine])
        ranked = mine[known][np.argsort(signed[mine[known]], kind="stable")]
        for some in (ranked, mine[~known]):
            along[some] = (np.arange(len(some)) + 0.5) / max(1, len(some))
    return np.argsort(along, kind="stable")
