"""From patterns to samples: a counting sort by length, then runs of it handed out to the packs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.groups import Table


@compiled
def histogram(lengths: NDArray[np.int32], capacity: int) -> NDArray[np.int64]:
    """How many samples have each length, int64 [capacity + 1]."""
    counts = np.zeros(capacity + 1, np.int64)
    for length in lengths:
        counts[length] += 1
    return counts


@compiled
def by_length(lengths: NDArray[np.int32], starts: NDArray[Any], queue: NDArray[Any]) -> None:
    """Fill `queue` with sample numbers sorted by length, in input order within one; those of l begin at starts[l]."""
    cursor = starts.copy()
    for sample in range(len(lengths)):
        length = lengths[sample]
        place = cursor[length]
        queue[place] = sample
        cursor[length] = place + 1


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
