"""Packing counts of lengths: which of the cores serves, and the samples handed out to its patterns.

There are at most `capacity` distinct lengths, so the work on counts does not grow with the samples. Every core
is run on the same counts, which takes milliseconds, and the best plan is kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.best_fit import best_fit_decreasing
from mindvl_data.packing.complete import exact_completion
from mindvl_data.packing.draw import words
from mindvl_data.packing.expand import by_length, hand_out
from mindvl_data.packing.first_fit import first_fit_decreasing
from mindvl_data.packing.groups import Table
from mindvl_data.packing.level import level
from mindvl_data.packing.limits import UNLIMITED, Limits
from mindvl_data.packing.packs import Packs, index_type

Patterns = tuple[Table, Table]

# Percent of the tokens that are levelled, most first.
SHARES = (80, 70, 60, 50)
# What levelling may cost: half a thousandth of the fill.
TOLERANCE = 0.0005
NOTHING = np.empty((0, 2), np.int64)


def best_patterns(counts: NDArray[np.int64], limits: Limits, bound: int, balance: bool) -> Patterns:
    """Patterns of the fewest packs that any core finds; with `balance` level ones, where they are as good.

    As good: no more packs than first-fit or best-fit decreasing makes, and within TOLERANCE of the best fill.
    """
    fullest = exact_completion(counts, limits.capacity, limits.max_samples, NOTHING, NOTHING)
    most = bound
    if number_of(fullest) > bound:
        others = [
            core(counts, limits.capacity, limits.max_samples) for core in (best_fit_decreasing, first_fit_decreasing)
        ]
        if limits.max_samples < UNLIMITED:
            others += [leveled(counts, limits, bound, share, False) for share in SHARES]
        most = min(map(number_of, others))
        fullest = min([fullest, *others], key=number_of)
    return _as_level(counts, limits, fullest, most) if balance else fullest


def number_of(patterns: Patterns) -> int:
    """How many packs."""
    return int(patterns[0][:, 0].sum())


def _as_level(counts: NDArray[np.int64], limits: Limits, fullest: Patterns, most: int) -> Patterns:
    packs = number_of(fullest)
    tokens = int((counts * np.arange(len(counts))).sum())
    least_fill = tokens / (packs * limits.capacity) - TOLERANCE if packs else 0
    for share in SHARES:
        for fullest_first in (True, False):
            found = leveled(counts, limits, packs, share, fullest_first)
            number = number_of(found)
            if number <= max(most, packs) and tokens >= least_fill * number * limits.capacity:
                return found
    return fullest


def leveled(counts: NDArray[np.int64], limits: Limits, packs: int, share: int, fullest_first: bool) -> Patterns:
    """Level packs, closed by exact completion: the fullest first, or the emptiest (fewer samples in a pack)."""
    rows, runs, left = level(counts, limits.capacity, limits.max_samples, packs, share)
    begun = Packs(np.arange(len(runs)), np.concatenate([[0], rows[:, 1]]), 0)
    tokens = begun.sums(runs[:, 0] * runs[:, 1])
    order = np.argsort(-tokens if fullest_first else tokens, kind="stable")
    begun = begun.reordered(order)
    rows = np.stack([rows[order, 0], begun.offsets[1:]], axis=1)
    return exact_completion(left, limits.capacity, limits.max_samples, rows, runs[begun.index])


def hand_out_samples(lengths: NDArray[np.int32], counts: NDArray[np.int64], patterns: Patterns, seed: int) -> Packs:
    """The packs of these patterns; which samples of one length go together is drawn from the seed."""
    kind = index_type(len(lengths))
    starts = np.zeros(len(counts) + 1, kind)
    np.cumsum(counts, out=starts[1:])
    turns = (words(len(counts), seed, "turns") % np.maximum(counts, 1).astype(np.uint64)).astype(np.int64)
    queue = np.empty(len(lengths), kind)
    by_length(lengths, starts, queue)
    index = np.empty(len(lengths), kind)
    offsets = np.empty(number_of(patterns) + 1, kind)
    hand_out(*patterns, starts, turns, queue, index, offsets)
    return Packs(index, offsets, 0)
