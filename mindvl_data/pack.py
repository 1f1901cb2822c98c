"""Packing: lengths into packs of one capacity, by the histogram of lengths rather than sample by sample.

There are at most `capacity` distinct lengths, so the work does not grow with the samples (shared/facts gave
the method: exact completion on counts; ancestor: Krell et al., arXiv 2107.02027).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError


class PackError(UserError):
    """Lengths that cannot be packed; the message names the first sample at fault."""


@dataclass(frozen=True)
class Packs:
    """A plan in compressed rows: `index[offsets[i]:offsets[i + 1]]` are the samples of pack i.

    index: int64 [samples], each exactly once. offsets: int64 [packs + 1]. lower_bound: no plan has fewer packs.
    """

    index: NDArray[np.int64]
    offsets: NDArray[np.int64]
    lower_bound: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sums(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Σ of a sample's value over each pack, int64 [packs]."""
        total = np.concatenate([[0], np.cumsum(values[self.index], dtype=np.int64)])
        return np.diff(total[self.offsets])

    def reordered(self, order: NDArray[np.int64]) -> Packs:
        """The same packs in another order."""
        counts = np.diff(self.offsets)[order]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
        return Packs(self.index[np.repeat(self.offsets[:-1][order], counts) + within], offsets, self.lower_bound)


def plan(lengths: NDArray[np.integer], capacity: int) -> Packs:
    """Pack `lengths` (integer [n], each 1 … capacity) into as few packs as exact completion finds.

    Raises PackError naming the first sample that is longer than a pack or not positive.
    """
    bad = np.flatnonzero((lengths < 1) | (lengths > capacity))
    if len(bad):
        raise PackError(f"sample {bad[0]} has length {lengths[bad[0]]}; a pack holds 1 to {capacity} tokens")
    counts = np.bincount(lengths, minlength=capacity + 1)
    patterns = _exact_completion(counts, capacity)
    index, offsets = _expand(lengths, counts, patterns)
    return Packs(index, offsets, lower_bound(counts, capacity))


def lower_bound(counts: NDArray[np.int64], capacity: int) -> int:
    """max(⌈Σ length / capacity⌉, L2) of a histogram of lengths (Martello & Toth 1990, section 8.3.2).

    L2 counts, for every threshold a ≤ capacity / 2: the lengths over capacity - a, which stand alone beside
    those over half; and the packs that lengths a … capacity / 2 need beyond the room those leave.
    """
    length = np.arange(capacity + 1)
    number, mass = np.cumsum(counts), np.cumsum(counts * length)
    half = capacity // 2
    a = np.arange(half + 1)
    over_half = number[-1] - number[half]
    room = (number[capacity - a] - number[half]) * capacity - (mass[capacity - a] - mass[half])
    small = mass[half] - np.where(a > 0, mass[a - 1], 0)
    packs = over_half + np.maximum(0, -((room - small) // capacity))
    return int(max(-(-mass[-1] // capacity), packs.max()))


def _exact_completion(counts: NDArray[np.int64], capacity: int) -> list[tuple[list[int], int]]:
    """(lengths of one pack, how many packs of it), largest lengths first.

    Bit l of `bits` says that length l is left, bit capacity - l of `mirror` the same: `bits` and the shifted
    mirror together hold every exact pair of a residual.
    """
    left = [int(count) for count in counts]
    bits = sum(1 << length for length, count in enumerate(left) if count)
    mirror = sum(1 << (capacity - length) for length, count in enumerate(left) if count)
    patterns = []
    while bits:
        pattern = _fill(left, bits, mirror, capacity)
        times = min(left[length] // pattern.count(length) for length in set(pattern))
        for length in set(pattern):
            left[length] -= times * pattern.count(length)
            if not left[length]:
                bits ^= 1 << length
                mirror ^= 1 << (capacity - length)
        patterns.append((pattern, times))
    return patterns


def _fill(left: list[int], bits: int, mirror: int, capacity: int) -> list[int]:
    """The lengths of one pack: the largest left, then what closes the rest exactly, else the largest that fits."""
    pattern = [bits.bit_length() - 1]
    residual = capacity - pattern[0]
    while residual:
        exact = _closing(left, bits, mirror, capacity, residual, pattern)
        if exact:
            return pattern + exact
        fits = bits & ((1 << (residual + 1)) - 1)
        length = fits.bit_length() - 1
        while fits and left[length] == pattern.count(length):
            fits ^= 1 << length
            length = fits.bit_length() - 1
        if not fits:
            return pattern
        pattern.append(length)
        residual -= length
    return pattern


def _closing(left: list[int], bits: int, mirror: int, capacity: int, residual: int, pattern: list[int]) -> list[int]:
    """One length, or two as alike as can be, that fill the residual exactly; empty when there are none."""
    if left[residual] > pattern.count(residual):
        return [residual]
    upper = (residual + 1) // 2
    pairs = (bits & (mirror >> (capacity - residual))) >> upper
    while pairs:
        lowest = pairs & -pairs
        long = upper + lowest.bit_length() - 1
        if long >= residual:
            return []
        pair = [long, residual - long]
        if all(left[length] >= pattern.count(length) + pair.count(length) for length in pair):
            return pair
        pairs ^= lowest
    return []


def _expand(
    lengths: NDArray[np.integer], counts: NDArray[np.int64], patterns: list[tuple[list[int], int]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Samples handed out to the patterns, in input order within a length."""
    queue = np.argsort(lengths.astype(np.min_scalar_type(len(counts))), kind="stable")
    ends = np.cumsum(counts)
    cursor = (ends - counts).tolist()
    index = np.empty(len(lengths), np.int64)
    sizes = []
    base = 0
    for pattern, times in patterns:
        width = len(pattern)
        rows = index[base : base + width * times].reshape(times, width)
        for column, length in enumerate(pattern):
            rows[:, column] = queue[cursor[length] : cursor[length] + times]
            cursor[length] += times
        sizes.append(np.full(times, width))
        base += width * times
    return index, np.concatenate([[0], *sizes]).cumsum().astype(np.int64)


def order_packs(
    attention: NDArray[np.int64], vision: NDArray[np.int64], *, rule: str, step: int, seed: int, name: str
) -> NDArray[np.int64]:
    """The order in which packs are written, int64 [packs], drawn from (seed, name).

    `shuffled`: any pack anywhere. `balanced`: each step of `step` packs is alike in cost (sorted by Σ l², by
    patches within eight steps), then whole steps, and the packs within each, are shuffled.
    """
    shuffled = _shuffle(len(attention), seed, name)
    if rule == "shuffled":
        return shuffled
    ranked = shuffled[np.argsort(-attention[shuffled], kind="stable")]
    block = np.arange(len(ranked)) // (8 * step)
    ranked = ranked[np.lexsort((vision[ranked], block))]
    full = len(ranked) // step
    tail = ranked[full * step :]
    steps = ranked[: full * step].reshape(full, step)[_shuffle(full, seed, f"{name}\0steps")]
    inside = [row[_shuffle(step, seed, f"{name}\0{number}")] for number, row in enumerate(steps)]
    return np.concatenate([*inside, tail[_shuffle(len(tail), seed, f"{name}\0tail")]])


def _shuffle(n: int, seed: int, name: str) -> NDArray[np.int64]:
    """A permutation of n from (seed, name): numpy's raw PCG64 words are stable by its own guarantee."""
    key = int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:16], "little")
    return np.argsort(np.random.PCG64(key).random_raw(n), kind="stable").astype(np.int64)


def step_balance(costs: NDArray[np.int64], step: int) -> float:
    """Σ of the steps' largest cost over Σ of their mean, over whole steps (or all packs, when fewer): 1 is level."""
    whole = len(costs) // step * step
    rows = costs[:whole].reshape(-1, step) if whole else costs.reshape(1, -1)
    mean = float(rows.mean(axis=1).sum())
    return float(rows.max(axis=1).sum()) / mean if mean else 1.0
