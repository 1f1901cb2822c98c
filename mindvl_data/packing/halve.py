"""Steps of packs that are alike in two costs: halve the packs, by the cost that spreads more, until a step is left.

A k-d tree (Bentley 1975) with whole steps as its leaves: the dense middle of both costs is cut finely, and the
few dear packs share their steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled


@compiled
def halve(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    step: int,
    first_ranks: NDArray[np.int64],
    second_ranks: NDArray[np.int64],
    first_weight: float,
    second_weight: float,
) -> NDArray[np.int64]:
    """The packs step by step, int64 [n], n a multiple of `step`.

    first, second: the two costs; their ranks: each pack's place in the sort by one; weight: one over the sum.
    """
    order = np.arange(len(first))
    stack = [(0, len(first))]
    while stack:
        start, end = stack.pop()
        steps = (end - start) // step
        if steps < 2:
            continue
        middle = start + steps // 2 * step
        if _spread(first, order, start, end) * first_weight >= _spread(second, order, start, end) * second_weight:
            _select(order, first_ranks, start, end, middle)
        else:
            _select(order, second_ranks, start, end, middle)
        stack.append((start, middle))
        stack.append((middle, end))
    return order


@compiled
def _spread(costs: NDArray[np.int64], order: NDArray[np.int64], start: int, end: int) -> int:
    least = most = costs[order[start]]
    for i in range(start + 1, end):
        least = min(least, costs[order[i]])
        most = max(most, costs[order[i]])
    return int(most - least)


@compiled
def _select(order: NDArray[np.int64], ranks: NDArray[np.int64], start: int, end: int, middle: int) -> None:
    """Bring the smallest ranks of order[start:end] before `middle` (Hoare's quickselect; ranks are distinct)."""
    low, high = start, end - 1
    while low < high:
        pivot = ranks[order[(low + high) // 2]]
        i, j = low, high
        while i <= j:
            while ranks[order[i]] < pivot:
                i += 1
            while ranks[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return
