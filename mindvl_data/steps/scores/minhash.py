"""MinHash signatures of texts (Broder 1997): what near-duplicate texts are found by."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.tables.store import starts_of

PERMUTATIONS = 128
SHINGLE = 5
# Shingles whose 128 values are computed at a time: 64 MiB.
AT_ONCE = 1 << 16


def text_minhash(text: pl.Series) -> pl.Series:
    """The signature of every text, Binary [n] of 128 little-endian uint32; null for a text without a letter or digit.

    Of the set of its 5-character pieces, lower case, runs of white space as one blank; a text below 5 characters is
    one piece. The share of equal values of two signatures estimates the Jaccard similarity of their sets.
    """
    plain = text.str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    said = plain.str.contains(r"[\p{L}\p{N}]")
    pieces, lengths = _pieces(plain.filter(said))
    signatures = minhash(pieces, lengths)
    found = pl.Series([row.tobytes() for row in signatures], dtype=pl.Binary)
    return pl.Series([None] * len(text), dtype=pl.Binary).scatter(np.flatnonzero(said.to_numpy()), found)


def minhash(items: NDArray[np.uint64], lengths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Signatures uint32 [n, 128] of n sets; items: uint64, of all sets in a row, `lengths` [n] each, none empty.

    Each value is the least of a set under one multiply-shift hash (Dietzfelbinger et al. 1997).
    """
    multipliers = hashed(np.arange(PERMUTATIONS, dtype=np.uint64), 0, "minhash") | np.uint64(1)
    starts = starts_of(lengths)
    found = np.empty((len(lengths), PERMUTATIONS), np.uint32)
    first = 0
    while first < len(lengths):
        end = max(first + 1, int(np.searchsorted(starts, starts[first] + AT_ONCE, "right")) - 1)
        span = items[starts[first] : starts[end]]
        with np.errstate(over="ignore"):
            values = ((span * multipliers[:, None]) >> np.uint64(32)).astype(np.uint32)
        found[first:end] = np.minimum.reduceat(values, starts[first:end] - starts[first], axis=1).T
        first = end
    return found


def _pieces(plain: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash of every 5-character piece of every text, and how many each has (at least one)."""
    padded = plain.str.pad_end(SHINGLE, "\0")
    points = np.frombuffer("".join(padded.to_list()).encode("utf-32-le"), np.uint32).astype(np.uint64)
    lengths = padded.str.len_chars().to_numpy().astype(np.int64)
    if not len(points):
        return points, lengths
    pieces = np.zeros(len(points) - SHINGLE + 1, np.uint64)
    for place in range(SHINGLE):
        pieces = hashed(pieces ^ points[place : len(pieces) + place], place, "shingle")
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return pieces[owner[: len(pieces)] == owner[SHINGLE - 1 :]], lengths - SHINGLE + 1
