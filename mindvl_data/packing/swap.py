"""Swapping: samples of equal length change places between packs, so that patches even out.

Neither fill nor Σ l² can change. Length by length, longest first: the places of a length are ranked by what
their packs hold in patches without them, its samples by their patches, and the largest sample goes to the
pack that has least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.expand import by_length
from mindvl_data.packing.packs import Packs


def even_out(packs: Packs, lengths: NDArray[np.int32], patches: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
    """Reorder `packs.index` in place (see the module). counts: how many samples have each length."""
    kind = packs.index.dtype
    starts = np.zeros(len(counts) + 1, kind)
    np.cumsum(counts, out=starts[1:])
    places = np.empty(len(lengths), kind)
    by_length(lengths[packs.index], starts, places)
    pack_of = np.repeat(np.arange(len(packs), dtype=kind), np.diff(packs.offsets))
    _swap(patches, starts, packs.index, places, packs.sums(patches), pack_of)


@compiled
def _swap(
    patches: NDArray[np.int32],
    starts: NDArray[Any],
    index: NDArray[Any],
    places: NDArray[Any],
    totals: NDArray[np.int64],
    pack_of: NDArray[Any],
) -> None:
    """Every length once. starts: where each begins in `places`, its places in `index`; totals: patches of a pack."""
    for length in range(len(starts) - 2, 0, -1):
        first, last = starts[length], starts[length + 1]
        if last - first > 1:
            _swap_length(patches, index, places[first:last], totals, pack_of)


@compiled
def _swap_length(
    patches: NDArray[np.int32],
    index: NDArray[Any],
    places: NDArray[Any],
    totals: NDArray[np.int64],
    pack_of: NDArray[Any],
) -> None:
    number = len(places)
    least = most = patches[index[places[0]]]
    for place in places:
        least = min(least, patches[index[place]])
        most = max(most, patches[index[place]])
    if least == most:
        return
    rooms = np.empty(number, np.int64)
    samples = np.empty(number, np.int64)
    for i in range(number):
        sample = index[places[i]]
        samples[i] = (np.int64(patches[sample]) << 32) | sample
        totals[pack_of[places[i]]] -= patches[sample]
    # A second place in one pack counts as if the first were filled with the mean.
    mean = (int(least) + int(most)) // 2
    copy = 0
    for i in range(number):
        copy = copy + 1 if i and pack_of[places[i]] == pack_of[places[i - 1]] else 0
        rooms[i] = ((totals[pack_of[places[i]]] + copy * mean) << 32) | i
    rooms.sort()
    samples.sort()
    for i in range(number):
        place = places[rooms[i] & 0xFFFFFFFF]
        sample = samples[number - 1 - i] & 0xFFFFFFFF
        index[place] = sample
        totals[pack_of[place]] += patches[sample]
