"""A local file's bytes without reading them: a memory map, which costs the pages that are looked at and no others."""

from __future__ import annotations

import mmap
import os
import stat
from typing import IO, TypeAlias

from mindvl_data.sources.ranged import Ranged


class Mapped:
    """The bytes of one file: `data` gives copies when sliced, `view` gives none and keeps the map alive."""

    def __init__(self, file: IO[bytes]) -> None:
        size = os.fstat(file.fileno()).st_size
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        self.data: bytes | mmap.mmap = self._map or b""
        self.view = memoryview(self.data)

    def forget(self, start: int, stop: int) -> None:
        """Give the pages of a range back to the page cache: a map of 10 GB must not become 10 GB of memory."""
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._map is not None and stop > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)


# A file's bytes, here or in a store.
FileBytes: TypeAlias = Mapped | Ranged


def map_file(place: str) -> Mapped:
    """A local file's bytes."""
    with open(place, "rb") as file:
        return Mapped(file)


def map_image(place: str) -> tuple[memoryview, os.stat_result]:
    """A local image file's bytes and what `stat` says of it. Raises OSError, also for what is no regular file."""
    # Not blocking: a pipe in a data set would wait for a writer for ever.
    handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(f"{place} is no regular file")
        return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ) if found.st_size else b""), found
    finally:
        os.close(handle)
