"""The samples of some packs in order, and what the token stores hold of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.steps.write.reads import Ranges
from mindvl_data.tables.store import CLIP, FRAME, IMAGE, Store, open_store, own_sizes, starts_of

# Each holds a dozen files open, and a process may have a thousand.
OPEN_STORES = 32
SAMPLE_ID = 16


@dataclass(frozen=True)
class Segments:
    """The samples of some packs in order, one entry a segment: where each lies and how much of it is used."""

    partition: NDArray[np.int32]
    row: NDArray[np.int32]
    source: NDArray[np.int16]
    repeat: NDArray[np.int16]
    num_ids: NDArray[np.int64]
    num_images: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, span: slice) -> Segments:
        return Segments(*(getattr(self, name)[span] for name in self.__dataclass_fields__))

    def places(self) -> Iterator[tuple[int, int]]:
        """(partition, row) of each."""
        return zip(self.partition.tolist(), self.row.tolist(), strict=True)


class Stores:
    """Token stores by partition, a bounded number of them open."""

    def __init__(self, paths: Mapping[int, Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, Store] = OrderedDict()

    def __getitem__(self, partition: int) -> Store:
        if partition not in self._open:
            self._open[partition] = open_store(self._paths[partition])
            if len(self._open) > OPEN_STORES:
                self._open.popitem(last=False)
        self._open.move_to_end(partition)
        return self._open[partition]


@dataclass(frozen=True)
class Texts:
    """What segments say: ids int32, loss bool, weights float32 (if wanted), all in a row; sample_ids uint8 [n, 16]."""

    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    weights: NDArray[np.float32] | None
    sample_ids: NDArray[np.uint8]


def texts(stores: Stores, segments: Segments, weighted: bool) -> Texts:
    """The first `num_ids` ids, loss marks and, if wanted, weights of every segment."""
    stops = starts_of(segments.num_ids)[1:]
    # Filled in place: a list of views would keep the files of all stores open at once.
    total = int(stops[-1]) if len(stops) else 0
    ids, loss, weights = np.empty(total, np.int32), np.empty(total, bool), np.ones(total if weighted else 0, np.float32)
    sample_ids = np.empty((len(segments), SAMPLE_ID), np.uint8)
    for store, mine in _by_partition(stores, segments, np.arange(len(segments))):
        rows, lengths = segments.row[mine], segments.num_ids[mine]
        sample_ids[mine] = store.sample_ids[rows]
        places = np.stack([store.starts[rows], stops[mine], lengths], axis=1).tolist()
        for begin, stop, length in places:
            ids[stop - length : stop] = store.ids[begin : begin + length]
            loss[stop - length : stop] = store.loss[begin : begin + length]
            if weighted and store.weights is not None:
                weights[stop - length : stop] = store.weights[begin : begin + length]
    return Texts(ids, loss, weights if weighted else None, sample_ids)


def images(stores: Stores, segments: Segments) -> tuple[NDArray[Any], list[str]]:
    """The first `num_images` images of every segment in a row, IMAGE, and the uris that they name."""
    starts = starts_of(segments.num_images)
    found = np.empty(int(starts[-1]), IMAGE)
    uris: list[str] = []
    for store, mine in _by_partition(stores, segments, np.flatnonzero(segments.num_images)):
        counts = segments.num_images[mine]
        rows = store.images[spans(store.image_starts[segments.row[mine]], counts)]
        used, rows["uri"] = np.unique(rows["uri"], return_inverse=True)
        rows["uri"] += len(uris)
        uris += [store.uris[number] for number in used.tolist()]
        found[spans(starts[mine], counts)] = rows
    return found, uris


def clips(stores: Stores, segments: Segments) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """What each of `images` stands for, CLIP, and the frames of clips, FRAME; None where no store has clips."""
    starts = starts_of(segments.num_images)
    found, frames, count = np.zeros(int(starts[-1]), CLIP), [np.zeros(0, FRAME)], 0
    for store, mine in _by_partition(stores, segments, np.flatnonzero(segments.num_images)):
        if store.clips is None or store.frames is None:
            continue
        counts = segments.num_images[mine]
        rows = store.clips[spans(store.image_starts[segments.row[mine]], counts)]
        shown = rows["count"].astype(np.int64)
        frames.append(store.frames[spans(rows["start"], shown)])
        rows["start"] = count + starts_of(shown)[:-1]
        count += len(frames[-1])
        found[spans(starts[mine], counts)] = rows
    return (found, np.concatenate(frames)) if count else None


def no_clips(count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """So many images as `clips` has them, none of which is a clip."""
    return np.zeros(count, CLIP), np.zeros(0, FRAME)


def _by_partition(
    stores: Stores, segments: Segments, some: NDArray[np.int64]
) -> Iterator[tuple[Store, NDArray[np.int64]]]:
    """Every store that some of the segments need, and which of them, in their order."""
    order = some[np.argsort(segments.partition[some], kind="stable")]
    for mine in np.split(order, np.flatnonzero(np.diff(segments.partition[order])) + 1):
        if len(mine):
            yield stores[int(segments.partition[mine[0]])], mine


def image_ranges(paths: Mapping[int, Path], segments: Segments) -> Ranges:
    """Where the images of the segments lie, in their order; of a clip's further entries nothing is read."""
    stores = Stores(paths)
    table, uris = images(stores, segments)
    shown = clips(stores, segments)
    sizes = own_sizes(table, shown and shown[0])
    return Ranges(uris, table["uri"].astype(np.int32), table["offset"].astype(np.int64), sizes)


def spans(begins: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """begins[0], begins[0] + 1, … `counts[0]` times, then the same of the next: int64 [Σ counts]."""
    return np.repeat(begins - starts_of(counts)[:-1], counts) + np.arange(int(counts.sum()))
