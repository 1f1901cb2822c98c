"""Many byte ranges at once: in the order of the files, what lies close together in one read, ahead of its use."""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mindvl_data.media import MediaError, changed, unreadable
from mindvl_data.runtime.buffers import Buffers
from mindvl_data.shards import Patience, StoreError, patiently, store_of
from mindvl_data.tables.store import starts_of

# What lies between two ranges is read along when it is cheaper than another request.
LOCAL_GAP = 64 << 10
STORE_GAP = 1 << 20
# Asked of a store together: few enough bytes that a slow network is no silent one.
ASKED_BYTES = 16 << 20
OPEN_FILES = 64
# The kernel takes no more buffers in one scattered read.
MOST_BUFFERS = 1024
AHEAD = 1

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Ranges:
    """n byte ranges. file: int [n] into `uris`; offset, size: int64 [n]."""

    uris: Sequence[str]
    file: NDArray[Any]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Ranges:
        return Ranges(self.uris, self.file[rows], self.offset[rows], self.size[rows])


@dataclass(frozen=True)
class Plan:
    """How n ranges are read.

    rows: int64 [distinct], those that are read, by file and offset; the others repeat one of them. number:
    int64 [n], which of `rows` each one is. borders: int64 [reads + 1], the rows of each read.
    """

    rows: NDArray[np.int64]
    number: NDArray[np.int64]
    borders: NDArray[np.int64]


def plan(wanted: Ranges, gap: int = LOCAL_GAP) -> Plan:
    """Ranges of one file that lie at most `gap` bytes apart become one read; each distinct range is read once."""
    order = np.lexsort((wanted.size, wanted.offset, wanted.file))
    file, offset, size = wanted.file[order], wanted.offset[order], wanted.size[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(file) != 0) | (np.diff(offset) != 0) | (np.diff(size) != 0)
    distinct = np.flatnonzero(fresh)
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(fresh) - 1
    file, offset, size = file[distinct], offset[distinct], size[distinct]
    between = offset[1:] - (offset[:-1] + size[:-1])
    cuts = np.flatnonzero((np.diff(file) != 0) | (between < 0) | (between > gap)) + 1
    borders = np.concatenate([[0], cuts, [len(distinct)]]) if len(distinct) else np.zeros(1, np.int64)
    return Plan(order[distinct], number, borders.astype(np.int64))


class RangeReader:
    """Reads ranges, keeping a few files open. `place`: from a uri to a local path or a URL."""

    def __init__(self, place: Callable[[str], str]) -> None:
        self._place = place
        self._open: OrderedDict[str, int] = OrderedDict()
        self._buffers = Buffers()

    def __enter__(self) -> RangeReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, wanted: Ranges) -> memoryview:
        """The bytes of every range, one after the other in the order asked (`parts`).

        Raises MediaError when one cannot be read whole.
        """
        remote = np.array(["://" in self._place(uri) if used else False for uri, used in _used(wanted)], bool)
        planned = plan(wanted, STORE_GAP if remote.any() else LOCAL_GAP)
        buffer = self._buffers.lend(int(wanted.size.sum()))
        views = parts(buffer, wanted.size)
        ranges, into = wanted[planned.rows], [views[row] for row in planned.rows.tolist()]
        reads = list(itertools.pairwise(planned.borders.tolist()))
        self._fill([read for read in reads if not remote[ranges.file[read[0]]]], ranges, into)
        self._fetch([read for read in reads if remote[ranges.file[read[0]]]], ranges, into)
        for row in np.flatnonzero(planned.rows[planned.number] != np.arange(len(wanted))).tolist():
            views[row][:] = into[planned.number[row]]
        return buffer

    def _fill(self, reads: Sequence[tuple[int, int]], ranges: Ranges, into: Sequence[memoryview]) -> None:
        for first, end in reads:
            self._announce(ranges, first, end)
        for first, end in reads:
            for some in range(first, end, MOST_BUFFERS // 2):
                few = slice(some, min(end, some + MOST_BUFFERS // 2))
                self._scatter(ranges[few], into[few])

    def _announce(self, ranges: Ranges, first: int, end: int) -> None:
        """Ask for a read that will come, so that the disk works while we copy."""
        if hasattr(os, "posix_fadvise") and len(ranges) > 1:
            start, stop = int(ranges.offset[first]), int(ranges.offset[end - 1] + ranges.size[end - 1])
            handle = self._handle(ranges, first)
            os.posix_fadvise(handle, start, stop - start, os.POSIX_FADV_WILLNEED)

    def _scatter(self, ranges: Ranges, into: Sequence[memoryview]) -> None:
        """Neighbouring ranges of one file in one call, straight to their places; the gaps go to a scrap."""
        offset, size = ranges.offset.tolist(), ranges.size.tolist()
        views, at = [], offset[0]
        for view, begin, length in zip(into, offset, size, strict=True):
            if begin > at:
                views.append(memoryview(bytearray(begin - at)))
            views.append(view)
            at = begin + length
        handle = self._handle(ranges, 0)
        try:
            found = _read_into(handle, views, offset[0])
        except OSError as error:
            raise unreadable(ranges.uris[ranges.file[0]], offset[0], at - offset[0], error) from error
        if found != at - offset[0]:
            raise changed(ranges.uris[ranges.file[0]], offset[-1], size[-1])

    def _handle(self, ranges: Ranges, row: int) -> int:
        uri = ranges.uris[ranges.file[row]]
        if uri not in self._open:
            try:
                self._open[uri] = os.open(self._place(uri), os.O_RDONLY)
            except OSError as error:
                raise unreadable(uri, int(ranges.offset[row]), int(ranges.size[row]), error) from error
            if len(self._open) > OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(uri)
        return self._open[uri]

    def _fetch(self, reads: Sequence[tuple[int, int]], ranges: Ranges, into: Sequence[memoryview]) -> None:
        """The reads of a file system together: it has many under way at a time."""
        systems: dict[Any, list[tuple[int, int]]] = {}
        for read in reads:
            fs, _ = store_of(self._place(ranges.uris[ranges.file[read[0]]]))
            systems.setdefault(fs, []).append(read)
        for fs, mine in systems.items():
            sizes = np.array([ranges.offset[end - 1] + ranges.size[end - 1] - ranges.offset[i] for i, end in mine])
            for some, stop in windows(sizes, ASKED_BYTES):
                found = _fetched(fs, self._place, ranges, mine[some:stop])
                for (first, end), data in zip(mine[some:stop], found, strict=True):
                    _cut(ranges[first:end], data, into[first:end])


def _fetched(
    fs: Any, place: Callable[[str], str], ranges: Ranges, reads: Sequence[tuple[int, int]]
) -> list[memoryview]:
    uris = [ranges.uris[ranges.file[first]] for first, _ in reads]
    starts = [int(ranges.offset[first]) for first, _ in reads]
    ends = [int(ranges.offset[end - 1] + ranges.size[end - 1]) for _, end in reads]
    paths = [fs._strip_protocol(place(uri)) for uri in uris]
    what = f"{uris[0]} [{starts[0]}, +{ends[0] - starts[0]}]" + (f" and {len(reads) - 1} more" if reads[1:] else "")
    try:
        found = patiently(lambda: fs.cat_ranges(paths, starts, ends, on_error="raise"), what, Patience())
    except StoreError as error:
        raise MediaError(str(error)) from error
    return [memoryview(data) for data in found]


def _cut(ranges: Ranges, data: memoryview, into: Sequence[memoryview]) -> None:
    """The ranges out of what one read brought, from the first one's offset on."""
    offset, size, start = ranges.offset.tolist(), ranges.size.tolist(), int(ranges.offset[0])
    for number, (view, begin, length) in enumerate(zip(into, offset, size, strict=True)):
        part = data[begin - start : begin - start + length]
        if len(part) != length:
            raise changed(ranges.uris[ranges.file[number]], begin, length)
        view[:] = part


def parts(data: memoryview, sizes: NDArray[np.int64]) -> list[memoryview]:
    """What lies one after the other in `data`, each by itself."""
    return [data[start:stop] for start, stop in itertools.pairwise(starts_of(sizes).tolist())]


def _used(wanted: Ranges) -> Iterator[tuple[str, bool]]:
    used = np.zeros(len(wanted.uris), bool)
    used[wanted.file] = True
    return zip(wanted.uris, used.tolist(), strict=True)


def _read_into(handle: int, views: list[memoryview], offset: int) -> int:
    """Fill the buffers from `offset` on, however little a call returns; the bytes read, fewer at the file's end."""
    total = 0
    while views:
        count = os.preadv(handle, views, offset + total)
        if not count:
            return total
        total += count
        while views and count >= len(views[0]):
            count -= len(views.pop(0))
        if views and count:
            views[0] = views[0][count:]
    return total


def ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`function` of every item in order, computed in a thread of its own, one ahead of what is asked for."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def windows(sizes: NDArray[np.int64], most: int) -> list[tuple[int, int]]:
    """(first, end) of stretches whose sizes sum to at most `most`, or of a single item that is larger."""
    ends = np.cumsum(sizes)
    borders = [0]
    while borders[-1] < len(sizes):
        before = int(ends[borders[-1] - 1]) if borders[-1] else 0
        borders.append(max(borders[-1] + 1, int(np.searchsorted(ends, before + most, side="right"))))
    return list(itertools.pairwise(borders))
