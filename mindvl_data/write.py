"""Writing: the packs of one shard are put together from the token stores and the sources' image bytes."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.media import MediaReader
from mindvl_data.shards import (
    Pack,
    PackImage,
    ShardInfo,
    attention_cost,
    pack_bytes,
    vision_cost,
    write_shard,
)
from mindvl_data.store import Store, open_store, starts_of
from mindvl_data.vision import Resolution, patch_grids

CHUNK_PACKS = 16
# Each holds a handful of files open, and a process may have a thousand.
OPEN_STORES = 64


@dataclass(frozen=True)
class Segments:
    """The samples of some packs in order, one entry a segment: where each lies and how much of it is used."""

    partition: NDArray[np.int32]
    row: NDArray[np.int32]
    source: NDArray[np.int16]
    repeat: NDArray[np.int16]
    num_ids: NDArray[np.int64]
    num_images: NDArray[np.int64]

    def __getitem__(self, span: slice) -> Segments:
        return Segments(*(getattr(self, name)[span] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class WriteTask:
    """One shard: its packs are `segments` cut at `offsets` (int64 [packs + 1]); `first_pack` numbers them.

    note: where `write` says what the manifest needs to know of it. roots: see MediaReader.
    """

    path: Path
    note: Path
    seq_len: int
    first_pack: int
    segments: Segments
    offsets: NDArray[np.int64]
    stores: Mapping[int, Path]
    sources: Sequence[str]
    resolution: Resolution
    media: str
    image_pad: int
    pad: int
    build_folder: Path
    recipe_folder: Path
    roots: Sequence[str]


def write(task: WriteTask) -> ShardInfo:
    """Write one shard, and then `note` with what the manifest says of it: a resumed build reads that.

    Raises MediaError when a source changed since its scan.
    """
    with MediaReader(task.build_folder, task.roots, task.recipe_folder) as media:
        info = write_shard(task.path, _packs(task, media), task.seq_len, task.sources)
    partial = task.note.with_suffix(".partial")
    partial.write_text(json.dumps({**info.__dict__, "pack_digests": [d.hex() for d in info.pack_digests]}))
    partial.rename(task.note)
    return info


def written(path: Path, note: Path) -> ShardInfo | None:
    """What an earlier, interrupted build finished of this shard."""
    if not note.is_file() or not path.is_file():
        return None
    fields = json.loads(note.read_text())
    digests = tuple(bytes.fromhex(digest) for digest in fields.pop("pack_digests"))
    return ShardInfo(**fields, pack_digests=digests)


def shard_borders(image_bytes: NDArray[np.int64], seq_len: int, shard_bytes: int) -> list[tuple[int, int]]:
    """(first pack, end) of every shard, closed in pack order before it would pass `shard_bytes`."""
    borders, first, size = [], 0, 0
    for number, more in enumerate(pack_bytes(seq_len, 0) + image_bytes):
        if size and size + more > shard_bytes:
            borders.append((first, number))
            first, size = number, 0
        size += int(more)
    return [*borders, (first, len(image_bytes))] if len(image_bytes) else borders


class _Stores:
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


def _packs(task: WriteTask, media: MediaReader) -> Iterator[Pack]:
    stores = _Stores(task.stores)
    packs = len(task.offsets) - 1
    for first in range(0, packs, CHUNK_PACKS):
        offsets = task.offsets[first : min(first + CHUNK_PACKS, packs) + 1]
        segments = task.segments[int(offsets[0]) : int(offsets[-1])]
        yield from _chunk(task, media, stores, segments, offsets - offsets[0], task.first_pack + first)


def _chunk(
    task: WriteTask,
    media: MediaReader,
    stores: _Stores,
    segments: Segments,
    offsets: NDArray[np.int64],
    first_pack: int,
) -> Iterator[Pack]:
    """A few packs at once: tokens gathered and placeholders expanded in columns, then cut into packs."""
    lengths = segments.num_ids
    ids = _gather(stores, segments, "ids", "starts", lengths)
    images = _gather(stores, segments, "images", "image_starts", segments.num_images)
    grids = patch_grids(images["width"], images["height"], task.resolution).astype(np.int64)
    is_image = ids == task.image_pad
    expanded = np.ones(len(ids), np.int64)
    expanded[is_image] = grids[:, 0] * grids[:, 1] // task.resolution.merge**2
    tokens = np.repeat(ids, expanded)
    loss = np.repeat(_gather(stores, segments, "loss", "starts", lengths), expanded)
    token_starts = starts_of(expanded)
    segment_starts = token_starts[starts_of(lengths)]
    image_places = token_starts[:-1][is_image]
    image_starts = starts_of(segments.num_images)
    partition = np.repeat(segments.partition, segments.num_images)
    for number in range(len(offsets) - 1):
        a, b = int(offsets[number]), int(offsets[number + 1])
        span = slice(int(segment_starts[a]), int(segment_starts[b]))
        shown = range(int(image_starts[a]), int(image_starts[b]))
        yield _pack(
            task,
            first_pack + number,
            tokens[span],
            loss[span],
            segment_starts[a : b + 1] - segment_starts[a],
            [bytes(stores[int(p)].sample_ids[r]) for p, r in _rows(segments[a:b])],
            segments[a:b],
            [
                _image(
                    task,
                    media,
                    stores[int(partition[i])],
                    images[i],
                    grids[i],
                    int(image_places[i]) - span.start,
                )
                for i in shown
            ],
        )


def _rows(segments: Segments) -> Iterator[tuple[int, int]]:
    return zip(segments.partition.tolist(), segments.row.tolist(), strict=True)


def _gather(stores: _Stores, segments: Segments, name: str, starts: str, lengths: NDArray[np.int64]) -> NDArray[Any]:
    """The first `lengths` items of every segment from its store's ragged column `name`, in segment order."""
    slices = []
    for (partition, row), length in zip(_rows(segments), lengths.tolist(), strict=True):
        store = stores[partition]
        begin = int(getattr(store, starts)[row])
        slices.append(getattr(store, name)[begin : begin + length])
    return np.concatenate(slices)


def _image(
    task: WriteTask, media: MediaReader, store: Store, image: Any, grid: NDArray[np.int64], start: int
) -> PackImage:
    uri, offset, size = store.uris[image["uri"]], int(image["offset"]), int(image["size"])
    sha256 = bytes(image["sha256"]) if image["has_sha256"] else None
    place = (1, int(grid[0]), int(grid[1]))
    if task.media == "reference":
        return PackImage(start, place, uri=uri, offset=offset, size=size, sha256=sha256)
    data = media.read(uri, offset, size, sha256)
    return PackImage(start, place, data=data, sha256=sha256 or hashlib.sha256(data).digest())


def _pack(
    task: WriteTask,
    index: int,
    tokens: NDArray[np.int32],
    loss: NDArray[np.bool_],
    starts: NDArray[np.int64],
    sample_ids: list[bytes],
    segments: Segments,
    images: list[PackImage],
) -> Pack:
    num_tokens = len(tokens)
    padding = task.seq_len - num_tokens
    borders = np.append(starts, task.seq_len) if padding else starts
    cu_seqlens: NDArray[np.int32] = borders.astype(np.int32)
    return Pack(
        index=index,
        tokens=np.concatenate([tokens, np.full(padding, task.pad, np.int32)]),
        loss_mask=np.concatenate([loss, np.zeros(padding, bool)]),
        cu_seqlens=cu_seqlens,
        num_tokens=num_tokens,
        sample_ids=tuple(sample_ids),
        sources=tuple(task.sources[code] for code in segments.source),
        repeats=tuple(segments.repeat.tolist()),
        images=tuple(images),
        num_patches=sum(image.num_patches for image in images),
        attention_cost=attention_cost(cu_seqlens, num_tokens),
        vision_cost=vision_cost(images),
    )
