"""Exact completion: the fullest packs that counts of lengths give, and the fewest.

Take the largest length left; close the residual by one length that fits exactly, else by an exact pair (as
alike as can be: the rest is worth more in variety), else by the largest that fits; make as many packs of that
pattern as the counts allow. Ancestor: Krell et al., "Efficient Sequence Packing without Cross-contamination"
(arXiv 2107.02027).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.patterns import Bits, Table, add, at_most, empty_bits, highest, remove, with_room, zero

# How far from the halves of a residual an exact pair is looked for, in words of 64 lengths.
PAIR_WORDS = 16


@compiled
def exact_completion(
    counts: NDArray[np.int64], capacity: int, max_samples: int, begun_rows: Table, begun_runs: Table
) -> tuple[Table, Table]:
    """Patterns (see patterns.as_patterns) that use every count once, those of the packs begun first.

    counts: int64 [capacity + 1]. begun_rows, begun_runs: patterns of packs that hold something already.
    """
    left = counts.copy()
    used = np.zeros(capacity + 1, np.int64)
    bits, mirror = empty_bits(capacity + 1), empty_bits(capacity + 1)
    for length in range(1, capacity + 1):
        if left[length]:
            add(bits, length)
            add(mirror, capacity - length)
    rows, runs = np.empty((1024, 2), np.int64), np.empty((4096, 2), np.int64)
    made = end = first = zero()
    for begun in range(len(begun_rows)):
        number, last = begun_rows[begun, 0], begun_rows[begun, 1]
        while number:
            runs, start = _copied(begun_runs, first, last, runs, end)
            runs, end = _fill(left, used, bits, mirror, capacity, max_samples, zero(), runs, end, start)
            rows = with_room(rows, made)
            rows[made, 0] = _taken(left, used, bits, mirror, capacity, runs, start, end, number)
            rows[made, 1] = end
            number -= rows[made, 0]
            made += 1
        first = last
    for largest in range(capacity, 0, -1):
        while left[largest]:
            start = end
            runs, end = _fill(left, used, bits, mirror, capacity, max_samples, largest, runs, start, start)
            rows = with_room(rows, made)
            rows[made, 0] = _taken(left, used, bits, mirror, capacity, runs, start, end, left[largest])
            rows[made, 1] = end
            made += 1
    return rows[:made], runs[:end]


@compiled
def _copied(begun_runs: Table, first: int, last: int, runs: Table, end: int) -> tuple[Table, int]:
    """Append what a pack holds already."""
    for run in range(first, last):
        runs = with_room(runs, end)
        runs[end, 0] = begun_runs[run, 0]
        runs[end, 1] = begun_runs[run, 1]
        end += 1
    return runs, end


@compiled
def _fill(
    left: NDArray[np.int64],
    used: NDArray[np.int64],
    bits: Bits,
    mirror: Bits,
    capacity: int,
    max_samples: int,
    length: int,
    runs: Table,
    begin: int,
    start: int,
) -> tuple[Table, int]:
    """Close the pack whose runs are begin … start, with `length` first unless 0; note in `used` what that takes."""
    residual, slots = capacity, max_samples
    for run in range(begin, start):
        residual -= runs[run, 0] * runs[run, 1]
        slots -= runs[run, 1]
    end, last = start, capacity
    while residual and slots:
        if length == 0:
            length = _next_length(left, used, bits, mirror, capacity, last, residual, slots)
        if length == 0:
            break
        # As long as more than two of a length fit, it stays the next one: nothing longer was left.
        copies = max(min((residual - 1) // length - 1, left[length] - used[length], slots), 1)
        runs = with_room(runs, end)
        runs[end, 0] = length
        runs[end, 1] = copies
        end += 1
        used[length] += copies
        residual -= copies * length
        slots -= copies
        last, length = length, 0
    return runs, end


@compiled
def _taken(
    left: NDArray[np.int64],
    used: NDArray[np.int64],
    bits: Bits,
    mirror: Bits,
    capacity: int,
    runs: Table,
    start: int,
    end: int,
    number: int,
) -> int:
    """How many packs, up to `number`, the counts give of what was added; and take them from the counts."""
    for run in range(start, end):
        number = min(number, left[runs[run, 0]] // used[runs[run, 0]])
    for run in range(start, end):
        length = runs[run, 0]
        left[length] -= number * runs[run, 1]
        used[length] = 0
        if left[length] == 0:
            remove(bits, length)
            remove(mirror, capacity - length)
    return number


@compiled
def _next_length(
    left: NDArray[np.int64],
    used: NDArray[np.int64],
    bits: Bits,
    mirror: Bits,
    capacity: int,
    last: int,
    residual: int,
    slots: int,
) -> int:
    """What to add: what fits exactly, the longer of an exact pair, or the largest that fits; 0 when none does."""
    if left[residual] > used[residual]:
        return residual
    if slots > 1 and residual <= 2 * last:
        longer = _pair(left, used, bits, mirror, capacity, last, residual)
        if longer:
            return longer
    length = at_most(bits, min(residual, last))
    while length > 0 and left[length] == used[length]:
        length = at_most(bits, length - 1)
    return max(length, 0)


@compiled
def _pair(
    left: NDArray[np.int64], used: NDArray[np.int64], bits: Bits, mirror: Bits, capacity: int, last: int, residual: int
) -> int:
    """The longer of two lengths that fill the residual exactly, as alike as can be; 0 when there are none.

    Bit l of `mirror`, shifted down by capacity - residual, says that residual - l is left.
    """
    upper = (residual + 1) // 2
    shift = capacity - residual
    skip, within = shift >> 6, np.uint64(shift & 63)
    first = upper >> 6
    for word in range(first, min(first + PAIR_WORDS, (min(residual, last) >> 6) + 1)):
        both = mirror[word + skip] >> within
        if within:
            both |= mirror[word + skip + 1] << (np.uint64(64) - within)
        both &= bits[word]
        while both:
            lowest = both & (~both + np.uint64(1))
            length = (word << 6) + highest(lowest)
            both ^= lowest
            if length < upper or length >= residual:
                continue
            other = residual - length
            if left[length] > used[length] and left[other] > used[other] + (other == length):
                return length
    return 0
