"""Near-duplicate texts: MinHash signatures in bands (Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.steps.dedup.exact import same
from mindvl_data.steps.dedup.near import Near, Pairs, near_between, near_within
from mindvl_data.tables.columns import chunks, let_go

# Of pairs exactly as similar as asked for, at most this share shares no band.
MISSED = 0.05
# Pairs whose signatures are read and compared together.
PAIRS = 1 << 18


def rows_per_band(similarity: float, values: int) -> int:
    """The most values a band for which at most 5 % of pairs of that Jaccard similarity are missed."""
    rows = 1
    while (1 - similarity ** (rows + 1)) ** (values // (rows + 1)) <= MISSED:
        rows += 1
    return rows


def near_texts(one: NDArray[np.uint32], similarity: float, other: NDArray[np.uint32] | None = None) -> Pairs:
    """Pairs of samples whose signatures estimate a Jaccard similarity of at least `similarity`.

    one, other: uint32 [n, values], [m, values]; may be memory-mapped, a band is read at a time. Pairs within
    `one`, enough to connect all that are found; with `other`, pairs (one, other).
    """
    rows = rows_per_band(similarity, one.shape[1])
    if other is not None:
        between = zip(_bands(one, rows), _bands(other, rows), strict=True)
        return near_between(between, _near(one, other, similarity))
    left, right = same(np.stack(list(_bands(one, one.shape[1] // 2)), axis=1))
    stays = np.ones(len(one), bool)
    stays[right] = False
    few = np.flatnonzero(stays)
    near_left, near_right = near_within((band[few] for band in _bands(one, rows)), _near_rows(one, few, similarity))
    return np.concatenate([left, few[near_left]]), np.concatenate([right, few[near_right]])


def _bands(signatures: NDArray[np.uint32], rows: int) -> Iterator[NDArray[np.uint64]]:
    """A hash of each band of values of each signature, uint64 [n]."""
    for first in range(0, signatures.shape[1] - rows + 1, rows):
        keys = np.zeros(len(signatures), np.uint64)
        for start, end in chunks(len(signatures)):
            for place in range(first, first + rows):
                keys[start:end] = hashed(
                    keys[start:end] ^ signatures[start:end, place].astype(np.uint64), place, "band"
                )
            let_go(signatures)
        yield keys


def _near(one: NDArray[np.uint32], other: NDArray[np.uint32], similarity: float) -> Near:
    def near(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        found = np.empty(len(left), bool)
        for start in range(0, len(left), PAIRS):
            span = slice(start, start + PAIRS)
            found[span] = (one[left[span]] == other[right[span]]).mean(axis=1) >= similarity
            let_go(one, other)
        return found

    return near


def _near_rows(one: NDArray[np.uint32], rows: NDArray[np.int64], similarity: float) -> Near:
    near = _near(one, one, similarity)
    return lambda left, right: near(rows[left], rows[right])
