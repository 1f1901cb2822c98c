"""Pairs of duplicates become groups, and one sample of each group stays, by a rule that no order of files changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kept_of(
    count: int, left: NDArray[np.int64], right: NDArray[np.int64], rank: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For every sample the one of its group that stays: of those that pairs connect, also through others, the first.

    Args:
        count: Samples.
        left: int64 [pairs], one sample of each pair of duplicates.
        right: int64 [pairs], the other.
        rank: int64 [count], see `ranks`: the smallest of a group stays.

    Returns:
        int64 [count]; of a sample that stays itself.
    """
    # In the order of rank, the smallest label that reaches a sample is the best of its group.
    best = np.argsort(rank, kind="stable")
    place = np.empty(count, np.int64)
    place[best] = np.arange(count)
    return best[_smallest(count, place[left], place[right])][place]


def _smallest(count: int, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """The smallest number that each is connected with, int64 [count]: labels spread along pairs, each then follows
    its own label (pointer jumping), so that a chain is done in the logarithm of its length."""
    labels = np.arange(count)
    while len(left):
        least = np.minimum(labels[left], labels[right])
        np.minimum.at(labels, labels[left], least)
        np.minimum.at(labels, labels[right], least)
        while not np.array_equal(labels, shorter := labels[labels]):
            labels = shorter
        open_ = labels[left] != labels[right]
        left, right = left[open_], right[open_]
    return labels


def ranks(prefer: NDArray[np.float64] | None, source: NDArray[np.int16], ids: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The order in which samples are kept: largest `prefer` first, then by the recipe's order of sources and sample id.

    Args:
        prefer: float64 [n], missing (NaN) last; None: all alike.
        source: int16 [n], its number in the recipe.
        ids: uint8 [n, 16].

    Returns:
        int64 [n], 0 for the first.
    """
    words = np.ascontiguousarray(ids).view(">u8").astype(np.uint64)
    keys: list[NDArray[np.generic]] = [words[:, 1], words[:, 0], source]
    if prefer is not None:
        keys.append(np.where(np.isnan(prefer), np.inf, -prefer))
    rank = np.empty(len(ids), np.int64)
    rank[np.lexsort(keys)] = np.arange(len(ids))
    return rank
