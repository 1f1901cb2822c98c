"""Near-duplicate pictures: perceptual hashes within a Hamming distance, found without comparing all with all.

Two 64-bit hashes that differ in at most d bits agree in at least 3 of d + 3 blocks (Manku, Jain, Das Sarma 2007,
"Detecting near-duplicates for web crawling"): a table for every choice of 3 blocks, whose keys are those blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindvl_data.steps.dedup.exact import image_keys, same
from mindvl_data.steps.dedup.near import Near, Pairs, near_between, near_within
from mindvl_data.tables.store import starts_of

AGREEING = 3
MAX_DISTANCE = 8


@dataclass(frozen=True)
class Pictures:
    """The perceptual hashes of n samples' images: uint64, of all in a row; starts: int64 [n + 1]."""

    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    def taken(self, rows: NDArray[np.int64]) -> Pictures:
        counts = self.counts[rows]
        starts = starts_of(counts)
        place = np.arange(starts[-1]) + np.repeat(self.starts[rows] - starts[:-1], counts)
        return Pictures(self.hashes[place], starts)


def near_pictures(one: Pictures, distance: int, other: Pictures | None = None) -> Pairs:
    """Pairs of samples with as many images each, every one within `distance` bits of its counterpart, in their order.

    Pairs within `one`, enough to connect all that are near; with `other`, pairs (one, other). Every sample must
    have an image. Finds all up to 256 in a bucket.
    """
    if other is not None:
        first, second = one.hashes[one.starts[:-1]], other.hashes[other.starts[:-1]]
        tables = ((first & mask, second & mask) for mask in _masks(distance))
        return near_between(tables, _near(one, other, distance))
    # Equal ones first: a crowd of them is one hash to the search.
    left, right = same(_keys(one))
    stays = np.ones(len(one), bool)
    stays[right] = False
    rows = np.flatnonzero(stays)
    few = one.taken(rows)
    first = few.hashes[few.starts[:-1]]
    near_left, near_right = near_within((first & mask for mask in _masks(distance)), _near(few, few, distance))
    return np.concatenate([left, rows[near_left]]), np.concatenate([right, rows[near_right]])


def _keys(pictures: Pictures) -> NDArray[np.uint64]:
    """Equal for samples with equal hashes in equal order alone (up to 128-bit collisions): uint64 [n, 2]."""
    words = np.zeros((len(pictures.hashes), 4), np.uint64)
    words[:, 0] = words[:, 1] = pictures.hashes
    return image_keys(words.view(np.uint8), pictures.starts)


def _near(one: Pictures, other: Pictures, distance: int) -> Near:
    counts, others = one.counts, other.counts

    def near(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        close = counts[left] == others[right]
        for place in range(int(counts.max(initial=0))):
            rows = np.flatnonzero(close & (counts[left] > place))
            if not len(rows):
                break
            differing = one.hashes[one.starts[left[rows]] + place] ^ other.hashes[other.starts[right[rows]] + place]
            close[rows] = np.bitwise_count(differing) <= distance
        return np.asarray(close)

    return near


def _masks(distance: int) -> Iterator[np.uint64]:
    """The bits of every choice of 3 among distance + 3 blocks."""
    blocks = distance + AGREEING
    edges = [64 * i // blocks for i in range(blocks + 1)]
    masks = [(1 << end) - (1 << start) for start, end in itertools.pairwise(edges)]
    for chosen in itertools.combinations(masks, AGREEING):
        yield np.uint64(sum(chosen))
