"""Groups: many packs alike, kept as one row, with what they hold as a chain of steps.

A step is a row (step before it, length, copies): what was added to a pack. A group is a row of the fields
below: `NUMBER` packs whose last step is `STEP`. Both are int64 tables that grow by doubling, so that splitting
a group costs one row whatever the number of its packs.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled

BEFORE, LENGTH, COPIES = range(3)
RESIDUAL, NUMBER, SLOTS, STEP, COST, START, NEXT, SIDE, RANK = range(9)
STEP_FIELDS, GROUP_FIELDS = 3, 9
NONE = -1

Table = NDArray[np.int64]


@compiled
def zero() -> int:
    """0 that is any integer: to numba the literal 0 has a type of its own, for which callees are compiled anew."""
    return int(np.int64(0))


@compiled
def with_room(table: Table, used: int) -> Table:
    """`table` when it has more than `used` rows, else a copy at least twice as long."""
    if used < len(table):
        return table
    longer = np.empty((2 * used, table.shape[1]), np.int64)
    for row in range(len(table)):  # by number: assigning slices costs seconds of compiling
        for column in range(table.shape[1]):
            longer[row, column] = table[row, column]
    return longer


@compiled
def open_packs(groups: Table, group: int, number: int, capacity: int, max_samples: int) -> None:
    """Write empty packs as a group."""
    groups[group, RESIDUAL] = capacity
    groups[group, NUMBER] = number
    groups[group, SLOTS] = max_samples
    groups[group, STEP] = NONE
    groups[group, COST] = 0


@compiled
def grow(groups: Table, group: int, new: int, steps: Table, step: int, length: int, copies: int, number: int) -> None:
    """Take `number` packs out of a group, add copies of a length to each, and make them the group `new`."""
    steps[step, BEFORE] = groups[group, STEP]
    steps[step, LENGTH] = length
    steps[step, COPIES] = copies
    groups[group, NUMBER] -= number
    groups[new, RESIDUAL] = groups[group, RESIDUAL] - copies * length
    groups[new, NUMBER] = number
    groups[new, SLOTS] = groups[group, SLOTS] - copies
    groups[new, STEP] = step
    groups[new, COST] = groups[group, COST] + copies * length * length


@compiled
def patterns(groups: Table, used: int, steps: Table, taken: int) -> tuple[Table, Table]:
    """The groups as patterns: rows (number of packs, end of the pattern's runs) and runs (length, copies).

    A pattern's runs stand in the order in which they were added.
    """
    rows = np.empty((used, 2), np.int64)
    runs = np.empty((max(taken, 1), 2), np.int64)
    made = end = zero()
    for group in range(used):
        if groups[group, NUMBER] == 0 or groups[group, STEP] == NONE:
            continue
        size = 0
        step = groups[group, STEP]
        while step != NONE:
            size += 1
            step = steps[step, BEFORE]
        end += size
        runs = with_room(runs, end)
        step = groups[group, STEP]
        for place in range(end - 1, end - size - 1, -1):
            runs[place, 0] = steps[step, LENGTH]
            runs[place, 1] = steps[step, COPIES]
            step = steps[step, BEFORE]
        rows[made, 0] = groups[group, NUMBER]
        rows[made, 1] = end
        made += 1
    return rows[:made], runs[:end]
