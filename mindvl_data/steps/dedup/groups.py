"""Pairs of duplicates become groups, and one sample of each group stays, by a rule that no order of files changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def kept_of(
    count: int, left: NDArray[np.int64], right: NDArray[np.int64], rank: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For every sample the one of its group that stays, int64 [count]; itself where it does.

    left, right: pairs of duplicates. Groups are what pairs connect, also through others. Of a group the sample of
    the smallest rank stays.
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
    """The order in which samples are kept, int64 [n]: largest `prefer` first (missing last), then the recipe's order
    of sources, then sample id. ids: uint8 [n, 16]."""
    words = np.ascontiguousarray(ids).view(">u8").astype(np.uint64)
    keys: list[NDArray[np.generic]] = [words[:, 1], words[:, 0], source]
    if prefer is not None:
        keys.append(np.where(np.isnan(prefer), np.inf, -prefer))
    rank = np.empty(len(ids), np.int64)
    rank[np.lexsort(keys)] = np.arange(len(ids))
    return rank
