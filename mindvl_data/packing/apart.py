"""Keeping draws of one sample apart: a pack that would hold the same sample twice gives one away for another as long.

Small samples go many to a pack, so that two passes over a source meet there. A swap of equal lengths changes
neither fill nor Σ l². What no sample of that length can mend (none other is as long) stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.expand import by_length
from mindvl_data.packing.limits import UNLIMITED, Limits
from mindvl_data.packing.packs import Packs

# How many places of the same length are looked at; of those that would do, the most alike in patches is taken.
PROBES = 32


def keep_apart(
    packs: Packs,
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32] | None,
    samples: NDArray[np.int32],
    counts: NDArray[np.int64],
    limits: Limits,
) -> None:
    """Reorder `packs.index` in place. samples: which sample each line is a draw of; counts: lines of each length."""
    pack_of = np.repeat(np.arange(len(packs), dtype=packs.index.dtype), np.diff(packs.offsets))
    together = again(packs, samples, pack_of)
    if not len(together):
        return
    kind = packs.index.dtype
    starts = np.zeros(len(counts) + 1, kind)
    np.cumsum(counts, out=starts[1:])
    places = np.empty(len(lengths), kind)
    by_length(lengths[packs.index], starts, places)
    some = np.zeros(len(lengths), np.int32) if patches is None else patches
    totals = packs.sums(some)
    most = UNLIMITED if limits.max_patches is None else limits.max_patches
    _exchange(together, lengths, some, samples, starts, places, packs.index, packs.offsets, pack_of, totals, most)


def again(packs: Packs, samples: NDArray[np.integer], pack_of: NDArray[Any] | None = None) -> NDArray[np.int64]:
    """The places in `packs.index` of a sample that its pack holds already, int64, ascending."""
    if pack_of is None:
        pack_of = np.repeat(np.arange(len(packs)), np.diff(packs.offsets))
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
