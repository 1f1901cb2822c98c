"""Levelling: packs alike in Σ l², the cost of attention, at nearly the fewest packs.

As many packs as the bound says are open at once. The largest lengths, up to a share of all tokens, go each to
the pack of the least cost that has room; exact completion closes the packs with the small rest.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.groups import (
    COST,
    GROUP_FIELDS,
    NUMBER,
    RESIDUAL,
    SLOTS,
    STEP_FIELDS,
    Table,
    grow,
    open_packs,
    patterns,
    with_room,
    zero,
)


@compiled
def level(
    counts: NDArray[np.int64], capacity: int, max_samples: int, packs: int, share: int
) -> tuple[Table, Table, NDArray[np.int64]]:
    """Patterns (see groups.patterns) of `packs` packs begun, and the counts that are left to close them with.

    share: percent of the tokens to level.
    """
    left = counts.copy()
    groups = np.empty((1024, GROUP_FIELDS), np.int64)
    steps = np.empty((1024, STEP_FIELDS), np.int64)
    open_packs(groups, 0, packs, capacity, max_samples)
    used, taken = zero() + 1, zero()
    costs = [(0, 0)]
    tokens = (counts * np.arange(capacity + 1)).sum() * share // 100
    for length in range(capacity, 0, -1):
        while left[length] and tokens > 0 and costs:
            cost, group = heappop(costs)
            if groups[group, RESIDUAL] < length or groups[group, SLOTS] == 0:
                continue
            number = min(left[length], groups[group, NUMBER])
            groups = with_room(groups, used)
            steps = with_room(steps, taken)
            grow(groups, group, used, steps, taken, length, 1, number)
            heappush(costs, (groups[used, COST], used))
            used += 1
            taken += 1
            left[length] -= number
            tokens -= number * length
            if groups[group, NUMBER]:
                heappush(costs, (cost, group))
    rows, runs = patterns(groups, used, steps, taken)
    return rows, runs, left
