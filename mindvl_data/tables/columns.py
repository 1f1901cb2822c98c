"""Columns with a line a sample that lie in files: memory holds the stretch that is looked at, and lets go of it."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Lines looked at together: what a step holds beside its columns does not grow with them.
CHUNK = 1 << 20
# Lines of a column in a file that a gather may leave in memory.
WINDOW = 1 << 22


class SpilledColumn:
    """A column that grows by parts, in a file without a name that is gone with the last array over it."""

    def __init__(self, folder: Path, dtype: DTypeLike, *width: int) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - `values` closes it
        self._dtype, self._width, self._lines = np.dtype(dtype), width, 0

    def append(self, part: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(part, self._dtype).data)
        self._lines += len(part)

    def values(self) -> NDArray[Any]:
        """All of it, [lines, *width], read-only; nothing can be appended any more."""
        with self._file as file:
            file.flush()
            if not self._lines:  # nothing cannot be mapped
                return np.zeros((0, *self._width), self._dtype)
            return np.asarray(np.memmap(file, self._dtype, "r", shape=(self._lines, *self._width)))


def chunks(lines: int) -> Iterator[tuple[int, int]]:
    """Where each CHUNK of so many lines begins and ends."""
    for start in range(0, lines, CHUNK):
        yield start, min(start + CHUNK, lines)


def let_go(*columns: NDArray[Any]) -> None:
    """Free the memory that reading columns in files has taken; they are read again when looked at again."""
    for column in columns:
        base: Any = column
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            base.madvise(mmap.MADV_DONTNEED)


def taken(column: NDArray[Any], lines: NDArray[np.integer]) -> NDArray[Any]:
    """`column[lines]`, a chunk at a time: of any but int64, NumPy makes eight bytes a line first."""
    found = np.empty((len(lines), *column.shape[1:]), column.dtype)
    for start, end in chunks(len(lines)):
        found[start:end] = column[lines[start:end]]
    return found


def taken_in_order(column: NDArray[Any], lines: NDArray[np.integer]) -> NDArray[Any]:
    """`column[lines]` of a column in a file, read from its beginning to its end and never all in memory."""
    order = np.argsort(lines)
    ascending = lines[order]
    found = np.empty((len(lines), *column.shape[1:]), column.dtype)
    edges = np.searchsorted(ascending, np.arange(0, len(column) + WINDOW, WINDOW))
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        if first < end:
            found[order[first:end]] = column[ascending[first:end]]
            let_go(column)
    return found
