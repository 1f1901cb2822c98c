"""The packs of one shard, a few at a time: tokens expanded, images read ahead and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.media import MediaReader, changed
from mindvl_data.shards import Pack, PackImage, attention_cost, vision_cost
from mindvl_data.store import starts_of
from mindvl_data.vision import patch_grids
from mindvl_data.write.reads import RangeReader, Ranges, ahead, windows
from mindvl_data.write.segments import Segments, Stores, images, tokens

if TYPE_CHECKING:
    from mindvl_data.write.shard import WriteTask

# What is read and put together at a time: bytes of images, and what a pack adds to it in tokens.
WINDOW_BYTES = 64 << 20
TOKEN_BYTES = 16


def packs(task: WriteTask) -> Iterator[Pack]:
    """Every pack of the task in order. Raises MediaError when a source changed since its scan."""
    assembly = _Assembly(task)
    if task.media == "reference":
        for span in assembly.spans:
            yield from assembly.packs(span, None)
        return
    with MediaReader(task.build_folder, task.roots, task.recipe_folder) as media:
        place: Callable[[str], str] = str if task.dealt else media.place
        with RangeReader(place) as reader:
            read = ahead(lambda span: assembly.read(reader, span), assembly.spans)
            for span, data in zip(assembly.spans, read, strict=True):
                yield from assembly.packs(span, data)


class _Assembly:
    """One shard's segments and images, and the spans of packs in which they are handled."""

    def __init__(self, task: WriteTask) -> None:
        self._task = task
        self._stores = Stores(task.stores)
        self._images, self._uris = images(self._stores, task.segments)
        self._image_starts = starts_of(task.segments.num_images)
        of_pack = starts_of(self._images["size"])[self._image_starts][task.offsets]
        self.spans = windows(np.diff(of_pack) + TOKEN_BYTES * task.seq_len, WINDOW_BYTES)

    def read(self, reader: RangeReader, span: tuple[int, int]) -> list[tuple[memoryview, bytes]]:
        """The images of the span's packs, each with its SHA-256."""
        first, end = self._image_starts[self._task.offsets[list(span)]].tolist()
        rows = self._images[first:end]
        if self._task.dealt is None:
            wanted = Ranges(self._uris, rows["uri"], rows["offset"], rows["size"])
        else:
            moved = self._task.dealt
            wanted = Ranges(moved.paths, moved.run[first:end], moved.offset[first:end], rows["size"])
        data = reader.read(wanted)
        return list(zip(data, self._digests(rows, data), strict=True))

    def _digests(self, rows: NDArray[Any], data: Sequence[memoryview]) -> Iterator[bytes]:
        for row, found in zip(rows, (hashlib.sha256(part).digest() for part in data), strict=True):
            if row["has_sha256"] and found != bytes(row["sha256"]):
                raise changed(self._uris[row["uri"]], int(row["offset"]), int(row["size"]))
            yield found

    def packs(self, span: tuple[int, int], data: list[tuple[memoryview, bytes]] | None) -> Iterator[Pack]:
        """Tokens gathered and placeholders expanded in columns, then cut into packs."""
        task, offsets = self._task, self._task.offsets[span[0] : span[1] + 1]
        segments = task.segments[int(offsets[0]) : int(offsets[-1])]
        offsets = offsets - offsets[0]
        image_starts = starts_of(segments.num_images)
        first_image = int(self._image_starts[task.offsets[span[0]]])
        rows = self._images[first_image : first_image + int(image_starts[-1])]
        grids = patch_grids(rows["width"], rows["height"], task.resolution).astype(np.int64)
        ids = tokens(self._stores, segments, "ids")
        is_image = ids == task.image_pad
        expanded = np.ones(len(ids), np.int64)
        expanded[is_image] = grids[:, 0] * grids[:, 1] // task.resolution.merge**2
        all_tokens = np.repeat(ids, expanded)
        loss = np.repeat(tokens(self._stores, segments, "loss"), expanded)
        token_starts = starts_of(expanded)
        starts = token_starts[starts_of(segments.num_ids)]
        image_places = token_starts[:-1][is_image]
        for number in range(len(offsets) - 1):
            a, b = int(offsets[number]), int(offsets[number + 1])
            here = slice(int(starts[a]), int(starts[b]))
            shown = range(int(image_starts[a]), int(image_starts[b]))
            yield _pack(
                task,
                task.first_pack + span[0] + number,
                all_tokens[here],
                loss[here],
                starts[a : b + 1] - starts[a],
                [bytes(self._stores[partition].sample_ids[row]) for partition, row in segments[a:b].places()],
                segments[a:b],
                [
                    self._image(rows[i], grids[i], int(image_places[i]) - here.start, data[i] if data else None)
                    for i in shown
                ],
            )

    def _image(
        self, row: Any, grid: NDArray[np.int64], start: int, embedded: tuple[memoryview, bytes] | None
    ) -> PackImage:
        place = (1, int(grid[0]), int(grid[1]))
        if embedded:
            return PackImage(start, place, data=embedded[0], sha256=embedded[1])
        sha256 = bytes(row["sha256"]) if row["has_sha256"] else None
        uri, offset, size = self._uris[row["uri"]], int(row["offset"]), int(row["size"])
        return PackImage(start, place, uri=uri, offset=offset, size=size, sha256=sha256)


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
