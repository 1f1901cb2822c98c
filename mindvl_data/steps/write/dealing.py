"""Dealing: where the images of a set lie too scattered to be read shard by shard, the sources are read once.

One pass goes through the sources in their own order and deals the images to files of their own, one for every
stretch of the sources (run) and every group of neighbouring shards; a shard then reads a few long ranges. It
is an external sort whose keys are known beforehand: what lies where follows from the sizes alone, so nothing
is written down of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mindvl_data import atomic
from mindvl_data.media import Access, MediaReader
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.steps.write.reads import RangeReader, Ranges, ahead, parts, plan, windows
from mindvl_data.tables.store import starts_of

# Read where they lie when a read gives so much on average, or when all are few enough to be cached: the scan has just
# been through them. Dealing writes every byte once more.
LEAST_READ = 128 << 10
FEW_BYTES = 4 << 30
# A run, and a group of shards: so large, larger only where there would be more than MOST of each.
RUN_BYTES = 1 << 30
MOST = 256
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class DealTask:
    """One run: `ranges` sorted by file and offset, and the group that each is for, int32 [n].

    folder: gets one file a group, `group_name`; it appears whole.
    """

    folder: Path
    ranges: Ranges
    group: NDArray[np.int32]
    build_folder: Path | str
    recipe_folder: Path
    roots: Sequence[str]


def group_name(group: int) -> str:
    return f"{group:05d}.bin"


def deal(task: DealTask) -> None:
    """Read a run and write what each group needs of it. Raises MediaError when a source changed since its scan."""
    with (
        atomic.whole(task.folder) as partial,
        MediaReader(task.build_folder, Access(task.recipe_folder, tuple(task.roots))) as media,
        RangeReader(media.place) as reader,
    ):
        partial.mkdir(parents=True)

        def read(span: tuple[int, int]) -> tuple[NDArray[np.int32], list[memoryview]]:
            rows = slice(*span)
            wanted = task.ranges[rows]
            return task.group[rows], parts(reader.read(wanted), wanted.size)

        for group, data in ahead(read, windows(task.ranges.size, CHUNK_BYTES)):
            order = np.argsort(group, kind="stable")
            for mine in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
                with (partial / group_name(int(group[mine[0]]))).open("ab") as file:
                    file.writelines(data[i] for i in mine.tolist())
    mirrors.sent_away(task.folder)


@dataclass(frozen=True)
class Dealt:
    """Where the images lie after dealing: run int32 [n] and offset int64 [n] in the run's file for the group."""

    run: NDArray[np.int32]
    offset: NDArray[np.int64]


def is_scattered(ranges: Ranges, borders: Sequence[tuple[int, int]]) -> bool:
    """Whether reading the images shard by shard (borders: each shard's images) takes too many requests."""
    total = int(ranges.size.sum())
    if total <= FEW_BYTES:
        return False
    reads = sum(len(plan(ranges[first:end]).borders) - 1 for first, end in borders)
    return reads * LEAST_READ > total


def groups(shard_bytes: NDArray[np.int64]) -> NDArray[np.int32]:
    """The group of every shard: neighbours, of about RUN_BYTES together."""
    ends = np.cumsum(shard_bytes)
    size = max(RUN_BYTES, -(-int(ends[-1]) // MOST))
    return ((ends - 1) // size).clip(min=0).astype(np.int32)


def runs(ranges: Ranges, group: NDArray[np.int32]) -> tuple[list[NDArray[np.int64]], Dealt]:
    """The rows of each run in the order they are read, and where every image lies afterwards.

    ranges: all images of a set in pack order; group: int32 [n]. An image that several groups want is read for
    each, from neighbouring rows, and so from the disk once.
    """
    order = np.lexsort((ranges.size, ranges.offset, ranges.file))
    size = max(RUN_BYTES, -(-int(ranges.size.sum()) // MOST))
    stretches = windows(ranges.size[order], size)
    run = np.empty(len(order), np.int32)
    offset = np.empty(len(order), np.int64)
    found = []
    for number, (first, end) in enumerate(stretches):
        rows = order[first:end]
        run[rows] = number
        by_group = rows[np.argsort(group[rows], kind="stable")]
        starts = starts_of(ranges.size[by_group])[:-1]
        firsts = np.flatnonzero(np.diff(group[by_group], prepend=-1))
        offset[by_group] = starts - np.repeat(starts[firsts], np.diff(np.append(firsts, len(by_group))))
        found.append(rows)
    return found, Dealt(run, offset)
