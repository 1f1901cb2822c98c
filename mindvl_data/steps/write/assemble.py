"""The packs of one shard, many at a time: tokens expanded, images read ahead and checked, all of it as columns."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.media import BUILD_SCHEME, Access, MediaReader, changed
from mindvl_data.runtime import seals
from mindvl_data.shards import PackColumns, batch_borders, image_array, pack_bytes, schema
from mindvl_data.steps.write.images import Embedded, embedded, placed, referenced, shown
from mindvl_data.steps.write.layout import Rows, cu_seqlens, laid_out, sums
from mindvl_data.steps.write.reads import RangeReader, Ranges, ahead, parts, windows
from mindvl_data.steps.write.segments import Stores, clips, images, no_clips, texts
from mindvl_data.steps.write.task import WriteTask
from mindvl_data.tables.store import image_grids, own_sizes, starts_of

# What is read and put together at a time: bytes of images, and what a token takes meanwhile.
WINDOW_BYTES = 32 << 20
TOKEN_BYTES = 64


def batches(task: WriteTask) -> Iterator[pa.RecordBatch]:
    """Every pack of the task in order. Raises MediaError when a source changed since its scan."""
    assembly = _Assembly(task)
    assembly.check_media()
    if task.media == "reference":
        for window in assembly.windows:
            yield from assembly.batches(window, None)
        return
    with MediaReader(task.build_folder, Access(task.recipe_folder, tuple(task.roots))) as media:
        place: Callable[[str], str] = str if task.dealt else media.place
        with RangeReader(place) as reader:
            read = ahead(lambda window: assembly.read(reader, window), assembly.windows)
            for window, data in zip(assembly.windows, read, strict=True):
                yield from assembly.batches(window, data)


class _Assembly:
    """One shard's segments and images, its record batches, and the windows (runs of those) in which they are made."""

    def __init__(self, task: WriteTask) -> None:
        self._task = task
        self._schema = schema(task.seq_len, task.video, task.weighted)
        self._stores = Stores(task.stores)
        self._images, self._uris = images(self._stores, task.segments)
        self._clips = clips(self._stores, task.segments) or (no_clips(len(self._images)) if task.video else None)
        self._grids = _grids(self._images, self._clips and self._clips[0], task)
        self._sizes = own_sizes(self._images, self._clips and self._clips[0])
        # Of every pack, and the end: its first segment and image.
        self._offsets = task.offsets, starts_of(task.segments.num_images)[task.offsets]
        held = sums(self._sizes, self._offsets[1]) * (task.media == "embed")
        self._batches = batch_borders(pack_bytes(task.seq_len, held))
        taken = starts_of(held + TOKEN_BYTES * task.seq_len)
        self.windows = windows(np.array([taken[end] - taken[first] for first, end in self._batches]), WINDOW_BYTES)

    def check_media(self) -> None:
        """Raises DamagedFileError where images lie in the build folder, and not as the scan wrote them."""
        folder = self._task.build_folder
        for uri in self._uris:
            # In a store they are not read before they are needed.
            if uri.startswith(BUILD_SCHEME) and isinstance(folder, Path):
                seals.checked(folder / uri.removeprefix(BUILD_SCHEME))

    def read(self, reader: RangeReader, window: tuple[int, int]) -> Embedded:
        """The images of a window. Raises MediaError where one is not what the scan found."""
        _, _, mine = self._spans(*self._packs(window))
        rows, sizes, dealt = self._images[mine], self._sizes[mine], self._task.dealt
        if dealt is None:
            wanted = Ranges(self._uris, rows["uri"], rows["offset"], sizes)
        else:
            wanted = Ranges(dealt.paths, dealt.run[mine], dealt.offset[mine], sizes)
        # The further entries of a clip have the very bytes of its first.
        own = np.ones(len(rows), bool) if self._clips is None else ~self._clips[0]["shares"][mine]
        data = reader.read(wanted[own])
        found = b"".join(hashlib.sha256(part).digest() for part in parts(data, sizes[own]))
        digests = np.frombuffer(found, np.uint8).reshape(-1, 32)
        self._check(rows[own], digests)
        return Embedded(data, sizes, own, digests[np.cumsum(own) - 1])

    def _check(self, rows: NDArray[Any], digests: NDArray[np.uint8]) -> None:
        for row in rows[rows["has_sha256"] & (rows["sha256"] != digests).any(axis=1)]:
            raise changed(self._uris[row["uri"]], int(row["offset"]), int(row["size"]))

    def batches(self, window: tuple[int, int], data: Embedded | None) -> Iterator[pa.RecordBatch]:
        """The record batches of a window, with the images that `read` gave of it."""
        origin, end_of_window = self._packs(window)
        rows = self._rows(origin, end_of_window)
        for first, end in self._batches[slice(*window)]:
            packs, segments, mine = self._spans(first, end, origin)
            here = data and data.cut(mine)
            yield self._columns(first, end, rows.cut(packs, segments, mine), here).record_batch(
                self._schema, self._task.sources
            )

    def _packs(self, window: tuple[int, int]) -> tuple[int, int]:
        first, end = window
        return self._batches[first][0], self._batches[end - 1][1]

    def _spans(self, first: int, end: int, origin: int = 0) -> tuple[slice, slice, slice]:
        """Some packs, their segments and images, counted from those of the pack `origin`."""
        offsets = [(border[[first, end]] - border[origin]).tolist() for border in self._offsets]
        return slice(first - origin, end - origin), slice(*offsets[0]), slice(*offsets[1])

    def _rows(self, first: int, end: int) -> Rows:
        task, (_, segments, mine) = self._task, self._spans(first, end)
        some = task.segments[segments]
        found = texts(self._stores, some, task.weighted)
        return laid_out(
            texts=found,
            num_ids=some.num_ids,
            num_segments=np.diff(task.offsets[first : end + 1]),
            is_image=np.isin(found.ids, task.pads),
            num_tokens=self._grids[mine].prod(axis=1) // task.resolution.merge**2,
            seq_len=task.seq_len,
            pad=task.pad,
        )

    def _columns(self, first: int, end: int, rows: Rows, data: Embedded | None) -> PackColumns:
        task, (_, segments, mine) = self._task, self._spans(first, end)
        num_segments, num_images = (np.diff(border[first : end + 1]) for border in self._offsets)
        grids, of_pack, of_image = self._grids[mine], starts_of(num_segments), starts_of(num_images)
        borders, num_borders = cu_seqlens(rows.lengths, num_segments, task.seq_len)
        return PackColumns(
            tokens=rows.tokens,
            loss_mask=rows.loss_mask,
            cu_seqlens=borders,
            num_borders=num_borders,
            num_tokens=sums(rows.lengths, of_pack),
            num_segments=num_segments,
            sample_ids=rows.sample_ids,
            sources=task.segments.source[segments],
            repeats=task.segments.repeat[segments],
            num_images=num_images,
            images=self._image_array(mine, rows.image_starts, data),
            num_patches=sums(grids.prod(axis=1), of_image),
            attention_cost=sums(rows.lengths**2, of_pack),
            vision_cost=sums(grids[:, 0] * grids[:, 1:].prod(axis=1) ** 2, of_image),
            loss_weights=rows.loss_weights,
        )

    def _image_array(self, mine: slice, starts: NDArray[np.int64], data: Embedded | None) -> pa.StructArray:
        fields = placed(starts, self._grids[mine])
        fields |= referenced(self._images[mine], self._uris) if data is None else embedded(data)
        if self._clips is not None:
            fields |= shown(self._clips[0][mine], self._clips[1])
        return image_array(self._schema.field("images").type.value_type, len(starts), fields)


def _grids(rows: NDArray[Any], clips: NDArray[Any] | None, task: WriteTask) -> NDArray[np.int64]:
    """(t, h, w) of images in patches, int64 [n, 3]."""
    sides = image_grids(rows["width"], rows["height"], task.resolution)
    grids = np.column_stack([np.ones(len(rows), np.int64), sides])
    return grids if clips is None else np.where(clips["count"][:, None] > 0, clips["grid"], grids)
