"""A file's bytes without reading them: a memory map, which costs the pages that are looked at and no others."""

from __future__ import annotations

import mmap
import os
import shutil
import stat
import tempfile
from typing import IO

import fsspec

COPY_BYTES = 8 << 20


class Mapped:
    """The bytes of one file: `data` gives copies when sliced, `view` gives none and keeps the map alive.

    A file in a store is copied to a temporary file first: walking one by range requests would take longer than
    reading it through.
    """

    def __init__(self, place: str) -> None:
        local = "://" not in place
        with open(place, "rb") if local else _copied(place) as file:
            size = os.fstat(file.fileno()).st_size
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        self.data: bytes | mmap.mmap = self._map or b""
        self.view = memoryview(self.data)

    def forget(self, start: int, stop: int) -> None:
        """Give the pages of a range back to the page cache: a map of 10 GB must not become 10 GB of memory."""
        start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._map is not None and stop > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _copied(place: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with fsspec.open(place, "rb") as source:
        shutil.copyfileobj(source, file, COPY_BYTES)
    file.flush()
    return file


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
