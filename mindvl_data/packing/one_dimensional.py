"""One-dimensional bin packing: packs full of tokens and alike in Σ l², the cost of attention, from counts of lengths.

There are at most `capacity` distinct lengths, so the work on counts does not grow with the samples. Every packer runs
on the same counts, which takes milliseconds, and the fewest packs are kept.

To balance them, as many packs as will be needed are open at once. The largest lengths, up to a share of all tokens, go
each to the pack of the least cost that has room; exact completion closes the packs with the small rest.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.best_fit import best_fit_decreasing
from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.completion import exact_completion
from mindvl_data.packing.packs import UNLIMITED, Limits, Packs
from mindvl_data.packing.patterns import (
    COST,
    GROUP_FIELDS,
    NUMBER,
    RESIDUAL,
    SLOTS,
    STEP_FIELDS,
    Table,
    as_patterns,
    grow,
    hand_out,
    open_packs,
    sorted_by_length,
    with_room,
    zero,
)
from mindvl_data.random_words import words

Patterns = tuple[Table, Table]

# Percent of the tokens that are balanced, most first.
SHARES = (80, 70, 60, 50)
# What balance may cost: half a thousandth of the fill.
TOLERANCE = 0.0005
NOTHING = np.empty((0, 2), np.int64)


def best_patterns(counts: NDArray[np.int64], limits: Limits, minimum: int, balance: bool) -> Patterns:
    """Patterns of the fewest packs that any packer finds; with `balance` balanced ones, where they are as good.

    As good: no more packs than best-fit decreasing makes, and within TOLERANCE of the best fill.

    Args:
        counts: how many samples have each length, int64 [capacity + 1].
        minimum: no packing has fewer packs.
    """
    fullest = exact_completion(counts, limits.capacity, limits.max_samples, NOTHING, NOTHING)
    most = minimum
    if number_of(fullest) > minimum:
        others = [best_fit_decreasing(counts, limits.capacity, limits.max_samples)]
        if limits.max_samples < UNLIMITED:
            others += [_balanced(counts, limits, minimum, share, False) for share in SHARES]
        most = min(map(number_of, others))
        fullest = min([fullest, *others], key=number_of)
    return _balanced_if_full(counts, limits, fullest, most) if balance else fullest


def number_of(patterns: Patterns) -> int:
    """How many packs."""
    return int(patterns[0][:, 0].sum())


def _balanced_if_full(counts: NDArray[np.int64], limits: Limits, fullest: Patterns, most: int) -> Patterns:
    """The most balanced patterns that are within TOLERANCE of the fullest and within `most` packs; else the fullest."""
    packs = number_of(fullest)
    tokens = int((counts * np.arange(len(counts))).sum())
    least_fill = tokens / (packs * limits.capacity) - TOLERANCE if packs else 0
    for share in SHARES:
        for fullest_first in (True, False):
            found = _balanced(counts, limits, packs, share, fullest_first)
            number = number_of(found)
            if number <= max(most, packs) and tokens >= least_fill * number * limits.capacity:
                return found
    return fullest


def _balanced(counts: NDArray[np.int64], limits: Limits, packs: int, share: int, fullest_first: bool) -> Patterns:
    """Balanced packs, closed by exact completion: the fullest first, or the emptiest (fewer samples in a pack)."""
    rows, runs, left = balanced_beginnings(counts, limits.capacity, limits.max_samples, packs, share)
    begun = Packs(np.arange(len(runs)), np.concatenate([[0], rows[:, 1]]), 0)
    tokens = begun.sums(runs[:, 0] * runs[:, 1])
    order = np.argsort(-tokens if fullest_first else tokens, kind="stable")
    begun = begun.reordered(order)
    rows = np.stack([rows[order, 0], begun.offsets[1:]], axis=1)
    return exact_completion(left, limits.capacity, limits.max_samples, rows, runs[begun.index])


@compiled
def balanced_beginnings(
    counts: NDArray[np.int64], capacity: int, max_samples: int, packs: int, share: int
) -> tuple[Table, Table, NDArray[np.int64]]:
    """Patterns (see patterns.as_patterns) of `packs` packs begun, and the counts that are left to close them with.

    share: percent of the tokens to place by Σ l².
    """
    left = counts.copy()
    groups = np.empty((1024, GROUP_FIELDS), np.int64)
    steps = np.empty((1024, STEP_FIELDS), np.int64)
    open_packs(groups, 0, packs, capacity, max_samples)
    used, taken = zero() + 1, zero()
    costs = [(0, 0)]
    tokens = (counts * np.arange(capacity + 1)).sum() * share // 100
    for length in range(capacity, 0, -1):
        while left[length] and tokens > 0 and costs:
            cost, group = heappop(costs)
            if groups[group, RESIDUAL] < length or groups[group, SLOTS] == 0:
                continue
            number = min(left[length], groups[group, NUMBER])
            groups = with_room(groups, used)
            steps = with_room(steps, taken)
            grow(groups, group, used, steps, taken, length, 1, number)
            heappush(costs, (groups[used, COST], used))
            used += 1
            taken += 1
            left[length] -= number
            tokens -= number * length
            if groups[group, NUMBER]:
                heappush(costs, (cost, group))
    rows, runs = as_patterns(groups, used, steps, taken)
    return rows, runs, left


def hand_out_samples(lengths: NDArray[np.int32], counts: NDArray[np.int64], patterns: Patterns, seed: int) -> Packs:
    """The packs of these patterns; which samples of one length go together is drawn from the seed."""
    turns = (words(len(counts), seed, "turns") % np.maximum(counts, 1).astype(np.uint64)).astype(np.int64)
    starts, queue = sorted_by_length(lengths, counts)
    index = np.empty_like(queue)
    offsets = np.empty(number_of(patterns) + 1, queue.dtype)
    hand_out(*patterns, starts, turns, queue, index, offsets)
    return Packs(index, offsets, 0)
