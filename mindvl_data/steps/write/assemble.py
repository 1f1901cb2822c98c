"""The packs of one shard, a few at a time: tokens expanded, images read ahead and checked."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.media import BUILD_SCHEME, Access, MediaReader, changed
from mindvl_data.runtime import seals
from mindvl_data.shards import Pack, PackImage, attention_cost, vision_cost
from mindvl_data.steps.write.reads import RangeReader, Ranges, ahead, windows
from mindvl_data.steps.write.segments import Stores, clips, images, texts
from mindvl_data.steps.write.task import WriteTask
from mindvl_data.tables.store import frames_of_rows, image_grids, own_sizes, starts_of

# What is read and put together at a time: bytes of images, and what a pack adds to it in tokens.
WINDOW_BYTES = 64 << 20
TOKEN_BYTES = 16


def packs(task: WriteTask) -> Iterator[Pack]:
    """Every pack of the task in order. Raises MediaError when a source changed since its scan."""
    assembly = _Assembly(task)
    assembly.check_media()
    if task.media == "reference":
        for span in assembly.spans:
            yield from assembly.packs(span, None)
        return
    with MediaReader(task.build_folder, Access(task.recipe_folder, tuple(task.roots))) as media:
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
        self._clips = clips(self._stores, task.segments)
        self._sizes = own_sizes(self._images, self._clips and self._clips[0])
        self._image_starts = starts_of(task.segments.num_images)
        of_pack = starts_of(self._sizes)[self._image_starts][task.offsets]
        self.spans = windows(np.diff(of_pack) + TOKEN_BYTES * task.seq_len, WINDOW_BYTES)

    def check_media(self) -> None:
        """Raises DamagedFileError where images lie in the build folder, and not as the scan wrote them."""
        folder = self._task.build_folder
        for uri in self._uris:
            # In a store they are not read before they are needed.
            if uri.startswith(BUILD_SCHEME) and isinstance(folder, Path):
                seals.checked(folder / uri.removeprefix(BUILD_SCHEME))

    def read(self, reader: RangeReader, span: tuple[int, int]) -> list[tuple[memoryview, bytes]]:
        """The images of the span's packs, each with its SHA-256."""
        first, end = self._image_starts[self._task.offsets[list(span)]].tolist()
        rows, sizes = self._images[first:end], self._sizes[first:end]
        if self._task.dealt is None:
            wanted = Ranges(self._uris, rows["uri"], rows["offset"], sizes)
        else:
            moved = self._task.dealt
            wanted = Ranges(moved.paths, moved.run[first:end], moved.offset[first:end], sizes)
        if self._clips is None:
            data = reader.read(wanted)
            return list(zip(data, self._digests(rows, data), strict=True))
        # The further entries of a clip have the very bytes of its first.
        is_own = ~self._clips[0]["shares"][first:end]
        data = reader.read(wanted[np.flatnonzero(is_own)])
        found = list(zip(data, self._digests(rows[is_own], data), strict=True))
        return [found[number] for number in (np.cumsum(is_own) - 1).tolist()]

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
        grids = image_grids(rows["width"], rows["height"], task.resolution)
        ids, loss, weights, sample_ids = texts(self._stores, segments)
        is_image = np.isin(ids, task.pads)
        expanded = np.ones(len(ids), np.int64)
        expanded[is_image] = grids[:, 0] * grids[:, 1] // task.resolution.merge**2
        all_tokens, loss = np.repeat(ids, expanded), np.repeat(loss, expanded)
        weights = np.repeat(weights, expanded) if task.weighted else weights
        token_starts = starts_of(expanded)
        starts = token_starts[starts_of(segments.num_ids)]
        in_pack = np.repeat(starts[offsets[:-1]], np.diff(image_starts[offsets]))
        shown = self._pack_images(rows, grids, token_starts[:-1][is_image] - in_pack, data)
        if self._clips is not None:
            shown = [*map(self._as_clip, shown, range(first_image, first_image + len(rows)))]
        names, uids = [task.sources[code] for code in segments.source.tolist()], _as_bytes(sample_ids)
        repeats = segments.repeat.tolist()
        for number, (a, b) in enumerate(itertools.pairwise(offsets.tolist())):
            here = slice(int(starts[a]), int(starts[b]))
            borders, padding = starts[a : b + 1] - starts[a], task.seq_len - (here.stop - here.start)
            cu_seqlens = np.append(borders, task.seq_len).astype(np.int32) if padding else borders.astype(np.int32)
            mine = tuple(shown[image_starts[a] : image_starts[b]])
            yield Pack(
                index=task.first_pack + span[0] + number,
                tokens=np.concatenate([all_tokens[here], np.full(padding, task.pad, np.int32)]),
                loss_mask=np.concatenate([loss[here], np.zeros(padding, bool)]),
                cu_seqlens=cu_seqlens,
                num_tokens=here.stop - here.start,
                sample_ids=tuple(uids[a:b]),
                sources=tuple(names[a:b]),
                repeats=tuple(repeats[a:b]),
                images=mine,
                num_patches=sum(image.num_patches for image in mine),
                attention_cost=attention_cost(cu_seqlens, here.stop - here.start),
                vision_cost=vision_cost(mine),
                loss_weights=np.append(weights[here], np.ones(padding, np.float32)) if task.weighted else None,
            )

    def _as_clip(self, image: PackImage, number: int) -> PackImage:
        """An image with what its store says of it where it is a clip, or some frames of one."""
        assert self._clips is not None
        clip, frames = self._clips[0][number], self._clips[1]
        if not clip["count"]:
            return image
        rows = frames[clip["start"] : clip["start"] + clip["count"]]
        t, h, w = clip["grid"].tolist()
        return replace(image, grid=(t, h, w), frames=frames_of_rows(rows), seconds_per_grid=float(clip["seconds"]))

    def _pack_images(
        self,
        rows: NDArray[Any],
        grids: NDArray[np.int64],
        starts: NDArray[np.int64],
        data: list[tuple[memoryview, bytes]] | None,
    ) -> list[PackImage]:
        places = [
            (start, (1, height, width)) for start, (height, width) in zip(starts.tolist(), grids.tolist(), strict=True)
        ]
        if data is not None:
            return [
                PackImage(start, grid, data=found, sha256=sha256)
                for (start, grid), (found, sha256) in zip(places, data, strict=True)
            ]
        uris = [self._uris[number] for number in rows["uri"].tolist()]
        digests = [
            digest if there else None
            for digest, there in zip(_as_bytes(rows["sha256"]), rows["has_sha256"].tolist(), strict=True)
        ]
        pointers = zip(places, uris, rows["offset"].tolist(), rows["size"].tolist(), digests, strict=True)
        return [
            PackImage(start, grid, uri=uri, offset=offset, size=size, sha256=sha256)
            for (start, grid), uri, offset, size, sha256 in pointers
        ]


def _as_bytes(rows: NDArray[np.uint8]) -> list[bytes]:
    """uint8 [n, width] as n strings of bytes."""
    return np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel().tolist()
