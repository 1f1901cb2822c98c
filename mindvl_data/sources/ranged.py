"""A file's bytes in a store, read by ranges: a few megabytes at a time, the next ones while these are looked at.

Nothing of it touches a disk, and however large the file is, no more than a handful of chunks are in memory. A read
that fails is tried again (see `patiently`).
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, overload

from mindvl_data.shards import Patience, StoreError, patiently
from mindvl_data.sources import SourceError

CHUNK_BYTES = 4 << 20
# Chunks that stay for whoever looks back, and those that are asked for before they are needed.
KEPT, AHEAD = 4, 3


class Ranged:
    """`size` bytes that slice like `bytes`: each slice is a copy.

    fs, path: where they lie. shown: how messages name the file. whole: whether chunks are read and kept; else every
    slice is a request of its own, for readers that know what they need (Parquet).
    """

    def __init__(self, fs: Any, path: str, size: int, shown: str, whole: bool = True) -> None:
        self._fs, self._path, self._size, self._shown = fs, path, size, shown
        self._whole = whole
        self._chunks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._pool = ThreadPoolExecutor(AHEAD, "ranges")
        self._last = -1
        self.data = self.view = self

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> int | bytes:
        if isinstance(key, int):
            number, place = divmod(key, CHUNK_BYTES)
            return self._chunk(number)[place]
        start, stop, _ = key.indices(self._size)
        if stop <= start:
            return b""
        if not self._whole:
            return self._read(start, stop)
        first, last = start // CHUNK_BYTES, (stop - 1) // CHUNK_BYTES
        begin = start - first * CHUNK_BYTES
        if first == last:
            return self._chunk(first)[begin : begin + stop - start]
        return b"".join(
            self._chunk(number)[begin if number == first else 0 : stop - number * CHUNK_BYTES]
            for number in range(first, last + 1)
        )

    def forget(self, start: int, stop: int) -> None:
        """Nothing: what is kept is bounded anyway (a map of a local file is told here what it need not keep)."""

    def _chunk(self, number: int) -> bytes:
        if number != self._last:
            follows, self._last = number == self._last + 1, number
            for wanted in range(number, number + 1 + (AHEAD if follows else 0)):
                self._ask(wanted)
            while len(self._chunks) > KEPT + AHEAD:
                self._chunks.popitem(last=False)
        return self._chunks[number].result()

    def _ask(self, number: int) -> None:
        start = number * CHUNK_BYTES
        if number not in self._chunks and start < self._size:
            self._chunks[number] = self._pool.submit(self._read, start, min(self._size, start + CHUNK_BYTES))
        if number in self._chunks:
            self._chunks.move_to_end(number)

    def _read(self, start: int, stop: int) -> bytes:
        what = f"{self._shown} [{start}, +{stop - start}]"
        try:
            data = patiently(lambda: self._fs.cat_file(self._path, start=start, end=stop), what, Patience())
        except StoreError as error:
            raise SourceError(str(error)) from error
        if len(data) != stop - start:
            raise SourceError(f"{what}: the store gave {len(data)} bytes; the file changed: run the same command again")
        return bytes(data)


class RangedFile(io.RawIOBase):
    """The same as a file that is read and sought in."""

    def __init__(self, ranged: Ranged) -> None:
        self._ranged, self._position = ranged, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._ranged)}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        stop = len(self._ranged) if size is None or size < 0 else self._position + size
        data = self._ranged[self._position : stop]
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)


def gives_ranges(fs: Any, path: str, size: int) -> bool:
    """Whether a file can be read by ranges: every store can, but a plain web server may send all of it every time."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    if not protocols & {"http", "https"} or not size:
        return True
    try:
        with fs.open(path, "rb", size=size) as file:
            file.seek(size - 1)
            file.read(1)
    except ValueError:
        return False
    return True


def copied(fs: Any, path: str) -> IO[bytes]:
    """The whole file in a temporary one, which the caller closes: for a server that gives no ranges."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with fs.open(path, "rb", block_size=0) as source:
        shutil.copyfileobj(source, file, CHUNK_BYTES)
    file.seek(0)
    return file
