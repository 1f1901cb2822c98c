"""Best-fit decreasing on counts: pack for pack what it makes sample by sample, ties going to the pack touched last.

All packs of a group are alike, so a length goes to a whole group in one step; the groups of one residual form a
stack, and the smallest residual that fits is found in a set of bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.patterns import (
    GROUP_FIELDS,
    NEXT,
    NONE,
    NUMBER,
    RESIDUAL,
    SLOTS,
    STEP_FIELDS,
    Bits,
    Table,
    add,
    as_patterns,
    at_least,
    empty_bits,
    grow,
    open_packs,
    remove,
    with_room,
    zero,
)


@compiled
def best_fit_decreasing(counts: NDArray[np.int64], capacity: int, max_samples: int) -> tuple[Table, Table]:
    """Patterns (see patterns.as_patterns) of best-fit decreasing; counts: int64 [capacity + 1]."""
    groups = np.empty((1024, GROUP_FIELDS), np.int64)
    steps = np.empty((1024, STEP_FIELDS), np.int64)
    used, taken = zero(), zero()
    stacks = np.full(capacity + 1, NONE)
    residuals = empty_bits(capacity + 1)
    for length in range(capacity, 0, -1):
        left = counts[length]
        while left:
            groups = with_room(groups, used + 1)
            steps = with_room(steps, taken)
            residual = at_least(residuals, length)
            group = used
            if residual == NONE:
                open_packs(groups, group, left, capacity, max_samples)
                used += 1
            else:
                group = stacks[residual]
            copies = min(groups[group, RESIDUAL] // length, groups[group, SLOTS], left)
            number = min(left // copies, groups[group, NUMBER])
            grow(groups, group, used, steps, taken, length, copies, number)
            if residual == NONE:
                groups[group, NUMBER] = 0
            elif groups[group, NUMBER] == 0:
                _pop(stacks, residuals, groups, residual)
            _push(stacks, residuals, groups, used)
            used += 1
            taken += 1
            left -= number * copies
    return as_patterns(groups, used, steps, taken)


@compiled
def _push(stacks: NDArray[np.int64], residuals: Bits, groups: Table, group: int) -> None:
    """Offer a group for its residual, unless it takes no more samples."""
    residual = groups[group, RESIDUAL]
    if groups[group, SLOTS] and residual:
        groups[group, NEXT] = stacks[residual]
        stacks[residual] = group
        add(residuals, residual)


@compiled
def _pop(stacks: NDArray[np.int64], residuals: Bits, groups: Table, residual: int) -> None:
    stacks[residual] = groups[stacks[residual], NEXT]
    if stacks[residual] == NONE:
        remove(residuals, residual)
