"""What packers on counts work with: sets of lengths, groups of packs alike, and the samples handed out to them.

A step is a row (step before it, length, copies): what was added to a pack. A group is a row of the fields
below: `NUMBER` packs whose last step is `STEP`. Both are int64 tables that grow by doubling, so that splitting
a group costs one row whatever the number of its packs. A finished group is a pattern: a number of packs, and the
runs (length, copies) that each of them holds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.packs import index_type

BEFORE, LENGTH, COPIES = range(3)
RESIDUAL, NUMBER, SLOTS, STEP, COST, NEXT = range(6)
STEP_FIELDS, GROUP_FIELDS = 3, 6
NONE = -1

# A set of small numbers, 64 to a word: which lengths are left, which residuals exist.
Bits = NDArray[np.uint64]
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
def as_patterns(groups: Table, used: int, steps: Table, taken: int) -> tuple[Table, Table]:
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


@compiled
def empty_bits(numbers: int) -> Bits:
    """No number of 0 … numbers - 1, and one word beyond, so that a shifted read stays inside."""
    return np.zeros(numbers // 64 + 2, np.uint64)


@compiled
def add(bits: Bits, number: int) -> None:
    """Put a number into the set."""
    bits[number >> 6] |= np.uint64(1) << np.uint64(number & 63)


@compiled
def remove(bits: Bits, number: int) -> None:
    """Take a number out of the set."""
    bits[number >> 6] &= ~(np.uint64(1) << np.uint64(number & 63))


@compiled
def at_most(bits: Bits, number: int) -> int:
    """The largest member that is not above `number`; -1 when there is none."""
    word = number >> 6
    value = bits[word] & (~np.uint64(0) >> np.uint64(63 - (number & 63)))
    while value == 0:
        word -= 1
        if word < 0:
            return -1
        value = bits[word]
    return (word << 6) + highest(value)


@compiled
def at_least(bits: Bits, number: int) -> int:
    """The smallest member that is not below `number`; -1 when there is none."""
    word = number >> 6
    value = bits[word] & (~np.uint64(0) << np.uint64(number & 63))
    while value == 0:
        word += 1
        if word == len(bits):
            return -1
        value = bits[word]
    return (word << 6) + highest(value & (~value + np.uint64(1)))


@compiled
def highest(value: np.uint64) -> int:
    """The place of the highest bit set, by halving."""
    place = 0
    for width in (32, 16, 8, 4, 2, 1):
        if value >> np.uint64(width):
            value >>= np.uint64(width)
            place += width
    return place


@compiled
def histogram(lengths: NDArray[np.int32], capacity: int) -> NDArray[np.int64]:
    """How many samples have each length, int64 [capacity + 1]."""
    counts = np.zeros(capacity + 1, np.int64)
    for length in lengths:
        counts[length] += 1
    return counts


def sorted_by_length(
    lengths: NDArray[np.int32], counts: NDArray[np.int64], index: NDArray[Any] | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sample numbers sorted by length, in input order within one, [n]; before them where each begins, [capacity + 2].

    counts: how many samples have each length, int64 [capacity + 1]. index: sorts its places, those of `lengths[index]`,
    in the place of sample numbers.
    """
    kind = index_type(len(lengths))
    starts = np.zeros(len(counts) + 1, kind)
    np.cumsum(counts, out=starts[1:])
    queue = np.empty(len(lengths), kind)
    if index is None:
        _sort_by_length(lengths, starts, queue)
    else:
        _sort_places(lengths, index, starts, queue)
    return starts, queue


@compiled
def _sort_by_length(lengths: NDArray[np.int32], starts: NDArray[Any], queue: NDArray[Any]) -> None:
    cursor = starts.copy()
    for sample in range(len(lengths)):
        length = lengths[sample]
        place = cursor[length]
        queue[place] = sample
        cursor[length] = place + 1


@compiled
def _sort_places(lengths: NDArray[np.int32], index: NDArray[Any], starts: NDArray[Any], queue: NDArray[Any]) -> None:
    """As `_sort_by_length` of `lengths[index]`, which would be another column of that many."""
    cursor = starts.copy()
    for place in range(len(index)):
        length = lengths[index[place]]
        queue[cursor[length]] = place
        cursor[length] += 1


@compiled
def hand_out(
    rows: Table,
    runs: Table,
    starts: NDArray[Any],
    turns: NDArray[np.int64],
    queue: NDArray[Any],
    index: NDArray[Any],
    offsets: NDArray[Any],
) -> None:
    """Fill `index` and `offsets` (CSR): each pattern takes its lengths' next samples from `queue`.

    The first sample of length l to be handed out is its turns[l]-th; after the last comes the first.
    """
    cursor = starts[:-1] + turns
    base = pack = first = 0
    offsets[0] = 0
    for row in range(len(rows)):
        number, end = rows[row, 0], rows[row, 1]
        width = stride = 0
        for run in range(first, end):
            stride += runs[run, 1]
        for run in range(first, end):
            length, copies = runs[run, 0], runs[run, 1]
            following, last = cursor[length], starts[length + 1]
            for copy in range(copies):
                place = base + width + copy
                for _ in range(number):
                    index[place] = queue[following]
                    place += stride
                    following += 1
                    if following == last:
                        following = starts[length]
            cursor[length] = following
            width += copies
        for _ in range(number):
            base += width
            pack += 1
            offsets[pack] = base
        first = end
