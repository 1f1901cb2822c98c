"""A second limit: tokens and patches (and samples) of a pack, where counts of lengths no longer say everything.

`repack` packs samples into bins in both dimensions: the largest, up to a share of the tokens, each into the bin
with the fewest patches; the rest by best fit in tokens among the bins whose patches allow it. `first_fit` is the
two-dimensional first-fit decreasing that no plan may be worse than.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.packs import Limits, Packs
from mindvl_data.packing.patterns import add, at_least, empty_bits, remove

NONE = -1
# Percent of the tokens that `repack` places by patches: the first that gives the fewest packs is taken.
SHARES = (70, 50)
# Packs over the limit are repacked with this many times as many others, until no pack more is needed, ...
PARTNERS = (1, 4, 16)
# ... and with so many at least that all of them together fill this much of the limit at most.
LOAD = 0.95
# Bins of one residual that are asked whether their patches allow a sample, before a larger residual is tried.
PROBES = 64


def within_patches(
    packs: Packs, lengths: NDArray[np.int32], patches: NDArray[np.int32], limits: Limits, minimum: int
) -> Packs:
    """The packs with none over limits.max_patches: those over it repacked with as many that have few patches."""
    assert limits.max_patches is not None
    totals = packs.sums(patches)
    over = totals > limits.max_patches
    if over.any():
        packs = _repaired(packs, lengths, patches, limits, totals, over, minimum)
    if len(packs) > minimum:
        order = _decreasing(np.arange(len(lengths)), lengths, patches)
        bin_of, bins = first_fit(lengths, patches, order, len(packs) - 1, *_limits(limits))
        packs = _packs_of(order, bin_of, bins, packs.index.dtype) if bins else packs
    return packs


def _limits(limits: Limits) -> tuple[int, int, int]:
    assert limits.max_patches is not None
    return limits.capacity, limits.max_patches, limits.max_samples


def _decreasing(
    samples: NDArray[np.int64], lengths: NDArray[np.int32], patches: NDArray[np.int32]
) -> NDArray[np.int64]:
    return samples[np.lexsort((samples, -patches[samples], -lengths[samples]))]


def _repaired(
    packs: Packs,
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32],
    limits: Limits,
    totals: NDArray[np.int64],
    over: NDArray[np.bool_],
    minimum: int,
) -> Packs:
    found: list[Packs] = []
    for times in PARTNERS:
        found.append(_repacked(packs, lengths, patches, limits, _partners(totals, over, limits, times)))
        if len(found[-1]) <= max(len(packs), minimum):
            break
    return min(found, key=len)


def _repacked(
    packs: Packs, lengths: NDArray[np.int32], patches: NDArray[np.int32], limits: Limits, chosen: NDArray[np.bool_]
) -> Packs:
    """The packs with the chosen ones opened and their samples packed anew, in both limits."""
    kept, opened = packs.reordered(np.flatnonzero(~chosen)), packs.reordered(np.flatnonzero(chosen))
    order = _decreasing(opened.index.astype(np.int64), lengths, patches)
    least = max(
        -(-int(values[order].sum(dtype=np.int64)) // most)
        for values, most in ((lengths, limits.capacity), (patches, max(limits.max_patches or 0, 1)))
    )
    least = max(least, -(-len(order) // limits.max_samples))
    found = [repack(lengths, patches, order, least, *_limits(limits), share) for share in SHARES]
    found.append(first_fit(lengths, patches, order, len(order), *_limits(limits)))
    bin_of, bins = min(found, key=lambda item: item[1])
    repacked = _packs_of(order, bin_of, bins, packs.index.dtype)
    return Packs(
        np.concatenate([kept.index, repacked.index]),
        np.concatenate([kept.offsets, kept.offsets[-1] + repacked.offsets[1:]]),
        packs.minimum_packs,
    )


def _partners(totals: NDArray[np.int64], over: NDArray[np.bool_], limits: Limits, times: int) -> NDArray[np.bool_]:
    """The packs over the limit and `times` as many with the fewest patches, or more, so that there is room."""
    assert limits.max_patches is not None
    number = int(over.sum())
    ranked = np.argsort(np.where(over, -1, totals), kind="stable")
    load = np.cumsum(totals[ranked]) <= LOAD * limits.max_patches * np.arange(1, len(ranked) + 1)
    load[: (1 + times) * number - 1] = False
    end = int(np.argmax(load)) + 1 if load.any() else len(ranked)
    chosen = np.zeros(len(totals), bool)
    chosen[ranked[:end]] = True
    return chosen


def _packs_of(order: NDArray[np.int64], bin_of: NDArray[np.int64], bins: int, kind: np.dtype[Any]) -> Packs:
    offsets = np.zeros(bins + 1, kind)
    np.cumsum(np.bincount(bin_of, minlength=bins), out=offsets[1:])
    return Packs(order[np.argsort(bin_of, kind="stable")].astype(kind), offsets, 0)


@compiled
def repack(
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32],
    order: NDArray[np.int64],
    bins: int,
    capacity: int,
    max_patches: int,
    max_samples: int,
    share: int,
) -> tuple[NDArray[np.int64], int]:
    """The bin of each sample of `order` (lengths descending), int64 [len(order)], and how many bins there are.

    `bins` are open from the start; more are opened as needed. share: percent of the tokens placed by patches.
    """
    number = len(order)
    bin_of = np.full(number, NONE)
    room = np.full(number + bins, capacity)
    spare = np.full(number + bins, max_patches)
    slots = np.full(number + bins, max_samples)
    heap = [(0, bin_) for bin_ in range(bins)]
    tokens = np.int64(0)
    for sample in order:
        tokens += lengths[sample]
    tokens = tokens * share // 100
    for i in range(number):
        length, need = int(lengths[order[i]]), int(patches[order[i]])
        while heap and tokens > 0:
            taken, bin_ = heap[0]
            if need > spare[bin_]:
                break
            heappop(heap)
            if length > room[bin_] or slots[bin_] == 0:
                continue
            bin_of[i] = bin_
            room[bin_] -= length
            spare[bin_] -= need
            slots[bin_] -= 1
            heappush(heap, (taken + need, bin_))
            tokens -= length
            break
    return bin_of, _best_fit(lengths, patches, order, bin_of, room, spare, slots, bins, capacity)


@compiled
def _best_fit(
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32],
    order: NDArray[np.int64],
    bin_of: NDArray[np.int64],
    room: NDArray[np.int64],
    spare: NDArray[np.int64],
    slots: NDArray[np.int64],
    bins: int,
    capacity: int,
) -> int:
    """Give a bin to every sample that has none; how many bins there are then."""
    stacks = np.full(capacity + 1, NONE)
    below = np.full(len(room), NONE)
    residuals = empty_bits(capacity + 1)
    for bin_ in range(bins):
        if room[bin_] and slots[bin_]:
            _put(stacks, below, residuals, bin_, room[bin_])
    for i in range(len(order)):
        if bin_of[i] != NONE:
            continue
        length, need = int(lengths[order[i]]), int(patches[order[i]])
        bin_ = _take(stacks, below, residuals, spare, length, need)
        if bin_ == NONE:
            bin_ = bins
            bins += 1
        bin_of[i] = bin_
        room[bin_] -= length
        spare[bin_] -= need
        slots[bin_] -= 1
        if room[bin_] and slots[bin_]:
            _put(stacks, below, residuals, bin_, room[bin_])
    return bins


@compiled
def _put(
    stacks: NDArray[np.int64], below: NDArray[np.int64], residuals: NDArray[np.uint64], bin_: int, residual: int
) -> None:
    below[bin_] = stacks[residual]
    stacks[residual] = bin_
    add(residuals, residual)


@compiled
def _take(
    stacks: NDArray[np.int64],
    below: NDArray[np.int64],
    residuals: NDArray[np.uint64],
    spare: NDArray[np.int64],
    length: int,
    need: int,
) -> int:
    """Take the bin of the smallest residual out whose patches allow the sample too; NONE when none is found."""
    residual = at_least(residuals, length)
    while residual != NONE:
        above, bin_ = NONE, stacks[residual]
        for _ in range(PROBES):
            if bin_ == NONE or spare[bin_] >= need:
                break
            above, bin_ = bin_, below[bin_]
        if bin_ != NONE and spare[bin_] >= need:
            if above == NONE:
                stacks[residual] = below[bin_]
                if stacks[residual] == NONE:
                    remove(residuals, residual)
            else:
                below[above] = below[bin_]
            return int(bin_)
        residual = at_least(residuals, residual + 1)
    return NONE


@compiled
def first_fit(
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32],
    order: NDArray[np.int64],
    bins: int,
    capacity: int,
    max_patches: int,
    max_samples: int,
) -> tuple[NDArray[np.int64], int]:
    """The bin of each sample of `order` by first fit in both limits, and how many bins; 0 when over `bins`.

    Two trees over the bins hold the most tokens and the most patches that any bin below has room for.
    """
    leaves = 1
    while leaves <= bins:
        leaves *= 2
    room = np.full(2 * leaves, capacity)
    spare = np.full(2 * leaves, max_patches)
    slots = np.full(leaves, max_samples)
    bin_of = np.empty(len(order), np.int64)
    used = 0
    for i in range(len(order)):
        length, need = int(lengths[order[i]]), int(patches[order[i]])
        node = 1
        while room[node] < length or spare[node] < need or node < leaves:
            if room[node] >= length and spare[node] >= need:
                node *= 2
                continue
            while node & 1:
                node >>= 1
            node += 1
        bin_ = node - leaves
        if bin_ >= bins:
            return bin_of, 0
        bin_of[i] = bin_
        used = max(used, bin_ + 1)
        slots[bin_] -= 1
        room[node] -= length
        spare[node] = spare[node] - need if slots[bin_] else NONE
        while node > 1:
            node >>= 1
            room[node] = max(room[2 * node], room[2 * node + 1])
            spare[node] = max(spare[2 * node], spare[2 * node + 1])
    return bin_of, used
