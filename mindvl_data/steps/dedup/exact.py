"""Samples with equal keys: 128 bits of a hash of the images, or of the text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.tables.columns import chunks, let_go


def image_keys(digests: NDArray[np.uint8], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A key of each sample's images in their order, uint64 [n, 2]; of no use for samples without images.

    digests: SHA-256 of every image, uint8 [images, 32]; starts: int64 [n + 1].
    """
    words = np.ascontiguousarray(digests).view("<u8").reshape(-1, 4)
    place = (np.arange(len(words)) - np.repeat(starts[:-1], np.diff(starts))).astype(np.uint64)
    keys = np.zeros((len(starts) - 1, 2), np.uint64)
    for column in (0, 1):
        running = np.zeros(len(words) + 1, np.uint64)
        np.cumsum(hashed(words[:, column] ^ hashed(place, column, "image"), column, "images"), out=running[1:])
        keys[:, column] = running[starts[1:]] - running[starts[:-1]]
    return keys


def same(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of rows with equal keys, enough of them to connect all that are: two int64 columns. keys: uint64 [n, 2]."""
    rows = _sharing_a_word(keys)
    some = keys[rows]
    order = np.lexsort((some[:, 1], some[:, 0]))
    equal = (some[order[1:]] == some[order[:-1]]).all(axis=1)
    return rows[order[:-1][equal]], rows[order[1:][equal]]


def _sharing_a_word(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The rows whose first word another row has too, ascending: few, so that only they are sorted with their places."""
    words = np.empty(len(keys), np.uint64)
    for start, end in chunks(len(keys)):
        words[start:end] = keys[start:end, 0]
        let_go(keys)
    words.sort()
    several = np.unique(words[1:][words[1:] == words[:-1]])
    if not len(several):
        return np.zeros(0, np.int64)
    found = []
    for start, end in chunks(len(keys)):
        some = keys[start:end, 0]
        nearest = several[np.searchsorted(several, some).clip(max=len(several) - 1)]
        found.append(start + np.flatnonzero(nearest == some))
        let_go(keys)
    return np.concatenate(found)


def same_as(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For every key the first row of `others` that has it too, or -1: int64 [n]."""
    together = np.concatenate([others, keys])
    # Stable: of equal keys, the others' come first.
    order = np.lexsort((together[:, 1], together[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (together[order[1:]] != together[order[:-1]]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    found = first[len(others) :]
    return np.where(found < len(others), found, -1)
