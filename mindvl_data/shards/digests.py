"""The hash of a pack's content, from the pack or from the columns of many, and the manifest's id from those."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import pairwise, repeat
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.shards.columns import binary_array, binary_rows, lengths, numbers
from mindvl_data.shards.pack import Pack

PLACE = ("start", "grid_t", "grid_h", "grid_w")
POINTER = ("uri", "offset", "size")


def pack_digest(pack: Pack) -> bytes:
    """SHA-256 of a pack's content alone; independent of Arrow, of shard borders and of recipe names."""
    content: list[bytes | memoryview] = []
    for array, dtype in ((pack.tokens, "<i4"), (pack.cu_seqlens, "<i4")):
        content += [len(array).to_bytes(8, "little"), np.ascontiguousarray(array, dtype=dtype).data]
    content += [np.packbits(pack.loss_mask, bitorder="little").data, *pack.sample_ids]
    places = np.array([(image.start, *image.grid) for image in pack.images], "<i8").tobytes()
    for number, image in enumerate(pack.images):
        content += [
            places[32 * number : 32 * number + 32],
            image.sha256 or f"{image.uri}\0{image.offset}\0{image.size}".encode(),
        ]
        if image.frames:
            shown = [(frame.index, frame.time) for frame in image.frames]
            content.append(np.array([*shown, (0, image.seconds_per_grid)], "<f8").tobytes())
    if pack.loss_weights is not None and (pack.loss_weights != 1).any():
        content.append(np.ascontiguousarray(pack.loss_weights, "<f4").data)
    return hashlib.sha256(b"".join(content)).digest()


def content_id(pack_digests: Iterable[bytes]) -> str:
    """A manifest's id: the hash of its packs' digests in order, hexadecimal."""
    return hashlib.sha256(b"".join(pack_digests)).hexdigest()


def batch_digests(batch: pa.RecordBatch) -> list[bytes]:
    """`pack_digest` of every line of a shard's record batch, from its columns."""
    packs, seq_len = len(batch), batch.schema.field("tokens").type.list_size
    tokens, mask = (numbers(batch.column(name).flatten()).reshape(packs, -1) for name in ("tokens", "loss_mask"))
    borders, ids = batch.column("cu_seqlens"), batch.column("sample_id")
    one = np.ones(packs, np.int64)
    content: list[Iterable[bytes | memoryview]] = [
        repeat(seq_len.to_bytes(8, "little"), packs),
        _cut(tokens, one),
        _cut(lengths(borders).astype("<i8"), one),
        _cut(numbers(borders.flatten()), lengths(borders)),
        _cut(np.packbits(mask, axis=1, bitorder="little"), one),
        _cut(binary_rows(ids.flatten()), lengths(ids)),
        _images(batch.column("images")),
    ]
    if "loss_weight" in batch.schema.names:
        weights = numbers(batch.column("loss_weight").flatten()).reshape(packs, -1)
        content.append(row.data if (row != 1).any() else b"" for row in weights)
    return [hashlib.sha256(b"".join(parts)).digest() for parts in zip(*content, strict=True)]


def _cut(values: NDArray[Any], counts: NDArray[np.int64]) -> list[memoryview]:
    """The bytes of the first counts[0] rows, of the counts[1] after them, and so on."""
    data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    width = len(data) // max(1, len(values))
    return [data[begin:end] for begin, end in pairwise([0, *(width * np.cumsum(counts)).tolist()])]


def _images(images: pa.ListArray) -> list[memoryview]:
    """Of every pack: of each of its images the start and grid, what names its bytes, and the frames shown."""
    flat = images.flatten()
    places = np.stack([numbers(flat.field(name)).astype("<i8") for name in PLACE], axis=1)
    content = _joined(
        [binary_array(places.view(np.uint8), pa.binary(32)).cast(pa.binary()), _names(flat), _frames(flat)]
    )
    ends = np.frombuffer(content.buffers()[1], np.int32)[np.cumsum(lengths(images))]
    return _cut(np.frombuffer(content.buffers()[2] or b"", np.uint8), np.diff(ends, prepend=0))


def _names(images: pa.StructArray) -> pa.Array:
    """The SHA-256 of each image, or where it lies, binary [n]."""
    hashes = images.field("sha256").cast(pa.binary())
    if not hashes.null_count:
        return hashes
    pointer = [images.field(name).cast(pa.string()).fill_null("None") for name in POINTER]
    return hashes.fill_null(_joined(pointer, "\0").cast(pa.binary()))


def _frames(images: pa.StructArray) -> pa.Scalar | pa.Array:
    """Of each clip (index, time) of its frames and (0, seconds a grid), float64; of a picture nothing: binary [n]."""
    if images.type.get_field_index("frames") < 0:
        return pa.scalar(b"")
    frames = images.field("frames")
    counts, shown = lengths(frames), frames.flatten()
    is_clip = counts > 0
    ends = np.cumsum(counts + is_clip)
    rows = np.zeros((len(shown) + int(is_clip.sum()), 2), "<f8")
    is_frame = np.ones(len(rows), bool)
    is_frame[ends[is_clip] - 1] = False
    rows[is_frame] = np.stack([numbers(shown.field(name)) for name in ("index", "time")], axis=1)
    rows[~is_frame, 1] = numbers(images.field("seconds_per_grid"))[is_clip]
    offsets = (rows.itemsize * 2 * np.append(0, ends)).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(counts), [None, pa.py_buffer(offsets), pa.py_buffer(rows)])


def _joined(parts: Sequence[pa.Array | pa.Scalar], separator: str | bytes = b"") -> pa.Array:
    import pyarrow.compute  # 20 ms, for which a start need not wait.

    return pyarrow.compute.binary_join_element_wise(*parts, separator)
