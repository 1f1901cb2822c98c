"""Swaps of samples as long as each other between packs: neither fill nor Σ l² can change.

`balance_patches` makes packs alike in patches. Length by length, longest first: the places of a length are ranked by
what their packs hold in patches without them, its samples by their patches, and the largest sample goes to the pack
that has least.

`separate_repeats` keeps draws of one sample out of one pack: small samples go many to a pack, so that two epochs of a
source meet there. What no sample of that length can mend (none other is as long) stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.packs import UNLIMITED, Limits, Packs
from mindvl_data.packing.patterns import sorted_by_length

# How many places of the same length are looked at to part repeats; of those that would do, the most alike in patches is
# taken.
PROBES = 32


def balance_patches(
    packs: Packs, lengths: NDArray[np.int32], patches: NDArray[np.int32], counts: NDArray[np.int64]
) -> None:
    """Reorder `packs.index` in place (see the module). counts: how many samples have each length."""
    starts, places = sorted_by_length(lengths, counts, packs.index)
    _swap(patches, starts, packs.index, places, packs.sums(patches), _pack_of(packs))


def _pack_of(packs: Packs) -> NDArray[Any]:
    """The pack of every place in `packs.index`, [samples]."""
    return np.repeat(np.arange(len(packs), dtype=packs.index.dtype), np.diff(packs.offsets))


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


def separate_repeats(
    packs: Packs,
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32] | None,
    samples: NDArray[np.int32],
    counts: NDArray[np.int64],
    limits: Limits,
) -> None:
    """Reorder `packs.index` in place. samples: which sample each line is a draw of; counts: lines of each length."""
    pack_of = _pack_of(packs)
    together = duplicates_in_pack(packs, samples, pack_of)
    if not len(together):
        return
    starts, places = sorted_by_length(lengths, counts, packs.index)
    some = np.zeros(len(lengths), np.int32) if patches is None else patches
    totals = packs.sums(some)
    most = UNLIMITED if limits.max_patches is None else limits.max_patches
    _exchange(together, lengths, some, samples, starts, places, packs.index, packs.offsets, pack_of, totals, most)


def duplicates_in_pack(
    packs: Packs, samples: NDArray[np.integer], pack_of: NDArray[Any] | None = None
) -> NDArray[np.int64]:
    """The places in `packs.index` of a sample that its pack holds already, int64, ascending."""
    if pack_of is None:
        pack_of = _pack_of(packs)
    drawn = samples[packs.index]
    repeated = np.flatnonzero(_several(drawn)[drawn])
    order = repeated[np.lexsort((drawn[repeated], pack_of[repeated]))]
    same = (pack_of[order[1:]] == pack_of[order[:-1]]) & (drawn[order[1:]] == drawn[order[:-1]])
    return np.sort(order[1:][same])


def _several(drawn: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which samples are drawn more than once, bool [samples]; by sorting, a count would take eight bytes a sample."""
    flags = np.zeros(int(drawn.max(initial=-1)) + 1, bool)
    ordered = np.sort(drawn)
    flags[ordered[1:][ordered[1:] == ordered[:-1]]] = True
    return flags


@compiled
def _exchange(
    together: NDArray[np.int64],
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32],
    samples: NDArray[np.int32],
    starts: NDArray[Any],
    places: NDArray[Any],
    index: NDArray[Any],
    offsets: NDArray[Any],
    pack_of: NDArray[Any],
    totals: NDArray[np.int64],
    most: int,
) -> None:
    for number in range(len(together)):
        place = together[number]
        line = index[place]
        first, end = starts[lengths[line]], starts[lengths[line] + 1]
        best, least = -1, -1
        # Over the whole length, since neighbours lie in one pack; each time from elsewhere.
        stride = max(1, (end - first) // PROBES)
        for probe in range(min(PROBES, end - first)):
            other = places[first + (number + probe * stride) % (end - first)]
            more = np.int64(patches[index[other]]) - patches[line]
            if (
                (best < 0 or abs(more) < least)
                and totals[pack_of[place]] + more <= most
                and totals[pack_of[other]] - more <= most
                and _lacks(samples, index, offsets, pack_of[place], samples[index[other]])
                and _lacks(samples, index, offsets, pack_of[other], samples[line])
            ):
                best, least = other, abs(more)
        if best >= 0:
            more = np.int64(patches[index[best]]) - patches[line]
            totals[pack_of[place]] += more
            totals[pack_of[best]] -= more
            index[place], index[best] = index[best], line


@compiled
def _lacks(samples: NDArray[np.int32], index: NDArray[Any], offsets: NDArray[Any], pack: int, sample: int) -> bool:
    found = False
    for place in range(offsets[pack], offsets[pack + 1]):
        found |= samples[index[place]] == sample
    return not found
