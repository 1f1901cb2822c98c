"""How much a text repeats itself: n-grams as hashes, counted for a whole batch at once by one sort.

The ratios are those of data-juicer's character_repetition_filter and word_repetition_filter, which took them from
ROOTS (Laurençon et al. 2022, appendix on filtering).
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.steps.scores.text import WORD

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def char_repetition(text: pl.Series, *, n: int = 10) -> pl.Series:
    """The share of character n-grams that belong to the commonest: Float64 [n samples], 0 for a text below n.

    Of d distinct n-grams the √d commonest count, but only those that come more than once.
    """
    points = np.frombuffer("".join(text.to_list()).encode("utf-32-le"), np.uint32).astype(np.uint64)
    sample, counts = _counted(points, text.str.len_chars().to_numpy().astype(np.int64), n)
    # The commonest first within each sample.
    order = np.lexsort((-counts, sample))
    sample, counts = sample[order], counts[order]
    distinct = np.bincount(sample, minlength=len(text))
    rank = np.arange(len(sample)) - (np.cumsum(distinct) - distinct)[sample]
    common = (rank < np.floor(np.sqrt(distinct))[sample]) & (counts > 1)
    return _ratio(sample, counts, common, len(text))


def word_repetition(text: pl.Series, *, n: int = 10) -> pl.Series:
    """The share of word n-grams (lower case) that come more than once: Float64 [n samples], 0 for a text below n."""
    codes, lengths = _words(text)
    sample, counts = _counted(codes, lengths, n)
    return _ratio(sample, counts, counts > 1, len(text))


def word_run(text: pl.Series) -> pl.Series:
    """How often at most one word (lower case) stands in a row: UInt32 [n], 0 without words."""
    codes, lengths = _words(text)
    owner = np.repeat(np.arange(len(text)), lengths)
    new = np.ones(len(codes), bool)
    new[1:] = (codes[1:] != codes[:-1]) | (owner[1:] != owner[:-1])
    starts = np.flatnonzero(new)
    longest = np.zeros(len(text), np.uint32)
    np.maximum.at(longest, owner[starts], np.diff(np.append(starts, len(codes))).astype(np.uint32))
    return pl.Series(longest)


def _words(text: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash of every word, uint64, and how many words each text has, int64 [n]."""
    found = text.str.to_lowercase().str.extract_all(WORD)
    return found.explode(empty_as_null=False).hash().to_numpy(), found.list.len().to_numpy().astype(np.int64)


def _counted(
    items: NDArray[np.uint64], lengths: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every distinct n-gram of every sample: the sample it is of, and how often it comes there.

    items: uint64, of all samples in a row, `lengths` [samples] of them each.
    """
    if len(items) < n:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    mixed = hashed(items, 0, "n-gram")
    grams = np.zeros(len(items) - n + 1, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(n):
            grams = grams * MULTIPLIER + mixed[i : len(items) - n + 1 + i]
    owner = np.repeat(np.arange(len(lengths)), lengths)
    whole = owner[: len(grams)] == owner[n - 1 :]
    # One sort for all samples: the sample in the upper bits, as many of the hash as there is room for below.
    bits = np.uint64(max(1, int(len(lengths) - 1).bit_length()))
    keys = (owner[: len(grams)][whole].astype(np.uint64) << (np.uint64(64) - bits)) | (grams[whole] >> bits)
    keys.sort()
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    counts = np.diff(np.append(starts, len(keys)))
    return (keys[starts] >> (np.uint64(64) - bits)).astype(np.int64), counts


def _ratio(sample: NDArray[np.int64], counts: NDArray[np.int64], chosen: NDArray[np.bool_], samples: int) -> pl.Series:
    total = np.bincount(sample, counts, samples)
    return pl.Series(np.bincount(sample[chosen], counts[chosen], samples) / np.maximum(total, 1))
