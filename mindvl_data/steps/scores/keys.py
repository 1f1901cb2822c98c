"""Names of samples as 128-bit numbers, a column at a time: what lists and tables from elsewhere are searched by."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.tables.store import starts_of

ROWS = 1 << 16


def hashes_of(names: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Two hashes of every name (String [n], none null): uint64 [n] each. Equal names alone have both equal.

    The sum over a name's bytes of a random number for (byte, place): the same on every machine and version.
    """
    found = [_hashes(names.slice(start, ROWS)) for start in range(0, len(names), ROWS)]
    empty = np.zeros(0, np.uint64)
    return np.concatenate([empty, *(high for high, _ in found)]), np.concatenate([empty, *(low for _, low in found)])


def _hashes(names: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    column = pa.array(names.to_arrow(compat_level=pl.CompatLevel.oldest()), pa.large_binary())
    lengths = names.str.len_bytes().to_numpy().astype(np.int64)
    starts = starts_of(lengths)
    first = int(np.frombuffer(column.buffers()[1], np.int64, offset=8 * column.offset, count=1)[0])
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)[first : first + int(starts[-1])]
    place = np.arange(len(data)) - np.repeat(starts[:-1], lengths)
    words = data.astype(np.uint64) | (place.astype(np.uint64) << np.uint64(8))
    high, low = (
        hashed(_sums(hashed(words, seed, "name"), starts) + lengths.astype(np.uint64), seed, "sum") for seed in (0, 1)
    )
    return high, low


def _sums(values: NDArray[np.uint64], starts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Sums over stretches, modulo 2**64: differences of the running sum, which may run over."""
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=running[1:])
    return running[starts[1:]] - running[starts[:-1]]
