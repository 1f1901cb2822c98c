"""Samples with equal keys: 128 bits of a hash of the images, or of the text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed


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
    order = np.argsort(keys[:, 0])
    first = keys[order, 0]
    tied = first[1:] == first[:-1]
    equal = tied & (keys[order[1:], 1] == keys[order[:-1], 1])
    if (tied != equal).any():
        # Keys that share a word and not the other: rare enough to sort by both only then.
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        equal = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return order[:-1][equal], order[1:][equal]


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
