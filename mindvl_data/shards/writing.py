"""Writing a shard: packs in order become one file, hashed as it is written, that appears whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.atomic import whole
from mindvl_data.shards import layout
from mindvl_data.shards.layout import SAMPLE_ID_BYTES, schema
from mindvl_data.shards.pack import Pack, PackImage, pack_digest
from mindvl_data.shards.sink import HashingFile

Digest: TypeAlias = bytes


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard; `pack_digests` (32 bytes each) make the manifest's id."""

    path: str
    packs: int
    bytes: int
    sha256: str
    pack_digests: tuple[Digest, ...] = ()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shard(
    path: Path,
    packs: Iterable[Pack],
    seq_len: int,
    sources: Sequence[str],
    video: bool = False,
    weighted: bool = False,
) -> ShardInfo:
    """Write packs in order to `path`, which appears whole (rename after fsync) or not at all.

    sources: every source name of the data set, in a fixed order: the file's one dictionary. video: the set has clips;
    weighted: loss tokens that weigh anything else than 1.
    """
    digests: list[bytes] = []
    columns = schema(seq_len, video, weighted)
    with whole(path) as partial, partial.open("wb") as file, HashingFile(file) as sink:
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), columns) as writer:
            for group in _batches(packs):
                digests += [pack_digest(pack) for pack in group]
                writer.write_batch(_record_batch(group, columns, sources))
        sha256 = sink.finish()
    return ShardInfo(path.name, len(digests), sink.size, sha256, tuple(digests))


def _batches(packs: Iterable[Pack]) -> Iterator[list[Pack]]:
    group: list[Pack] = []
    size = 0
    for pack in packs:
        more = pack_bytes(pack.seq_len, sum(len(data or b"") for data in _own_bytes(pack.images)))
        if group and (len(group) == layout.MAX_BATCH_PACKS or size + more > layout.MAX_BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(pack)
        size += more
    if group:
        yield group


def pack_bytes(seq_len: int, image_bytes: int) -> int:
    """What one pack adds to a shard, near enough to close shards by: tokens, mask bits, image bytes."""
    return 4 * seq_len + seq_len // 8 + image_bytes


def _own_bytes(images: Sequence[PackImage]) -> Iterator[bytes | memoryview | None]:
    """The bytes that stand in each entry: of a clip only in the first of those in a row that share it."""
    before = None
    for image in images:
        again = image.is_video and image.data is not None and image.data is before
        before = image.data
        yield None if again else image.data


def _record_batch(packs: list[Pack], columns: pa.Schema, sources: Sequence[str]) -> pa.RecordBatch:
    seq_len = columns.field("tokens").type.list_size
    code = {name: number for number, name in enumerate(sources)}
    names = pa.DictionaryArray.from_arrays(
        pa.array([code[name] for pack in packs for name in pack.sources], pa.int16()),
        pa.array(list(sources), pa.string()),
    )
    tokens = np.concatenate([pack.tokens for pack in packs]).astype(np.int32, copy=False)
    mask = np.concatenate([pack.loss_mask for pack in packs])
    segments = [len(pack.sample_ids) for pack in packs]
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(tokens, pa.int32()), seq_len),
        pa.FixedSizeListArray.from_arrays(pa.array(mask, pa.bool_()), seq_len),
        _list_array(
            [len(pack.cu_seqlens) for pack in packs],
            pa.array(np.concatenate([pack.cu_seqlens for pack in packs]), pa.int32()),
        ),
        pa.array([pack.num_tokens for pack in packs], pa.int32()),
        _list_array(segments, pa.array([uid for pack in packs for uid in pack.sample_ids], pa.binary(SAMPLE_ID_BYTES))),
        _list_array(segments, names),
        _list_array(segments, pa.array([repeat for pack in packs for repeat in pack.repeats], pa.int16())),
        _list_array([len(pack.images) for pack in packs], _image_array(packs, columns.field("images").type.value_type)),
        pa.array([pack.num_patches for pack in packs], pa.int32()),
        pa.array([pack.attention_cost for pack in packs], pa.int64()),
        pa.array([pack.vision_cost for pack in packs], pa.int64()),
    ]
    if "loss_weight" in columns.names:
        weights = [np.ones(seq_len, np.float32) if p.loss_weights is None else p.loss_weights for p in packs]
        arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(weights), pa.float32()), seq_len))
    return pa.RecordBatch.from_arrays(arrays, schema=columns)


def _list_array(counts: list[int], values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _image_array(packs: list[Pack], kind: pa.StructType) -> pa.Array:
    images = [image for pack in packs for image in pack.images]
    fields: Mapping[str, list[Any]] = {
        "start": [image.start for image in images],
        "grid_t": [image.grid[0] for image in images],
        "grid_h": [image.grid[1] for image in images],
        "grid_w": [image.grid[2] for image in images],
        "bytes": [data for pack in packs for data in _own_bytes(pack.images)],
        "uri": [image.uri for image in images],
        "offset": [image.offset for image in images],
        "size": [image.size for image in images],
        "sha256": [image.sha256 for image in images],
        "seconds_per_grid": [image.seconds_per_grid for image in images],
        "frames": [[vars(frame) for frame in image.frames] for image in images],
    }
    arrays = [
        _bytes_array(fields["bytes"]) if field.name == "bytes" else pa.array(fields[field.name], field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


def _bytes_array(values: Sequence[bytes | memoryview | None]) -> pa.Array:
    """large_binary of buffers that may lie anywhere, copied where they do not lie in a row."""
    parts = [pa.py_buffer(value or b"") for value in values]
    offsets = np.concatenate([[0], np.cumsum([part.size for part in parts], dtype=np.int64)]).astype(np.int64)
    if all(value is not None for value in values):
        missing = None
    else:
        missing = pa.array([value is not None for value in values]).buffers()[1]
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(values), [missing, pa.py_buffer(offsets), _in_a_row(parts, offsets)]
    )


def _in_a_row(parts: Sequence[pa.Buffer], offsets: NDArray[np.int64]) -> pa.Buffer:
    """The parts as one buffer: the memory itself where each begins at the end of the one before."""
    filled = np.diff(offsets) > 0
    begins = np.array([part.address for part in parts], np.int64)[filled] - offsets[:-1][filled]
    if len(begins) and (begins == begins[0]).all():
        return pa.foreign_buffer(int(begins[0]), int(offsets[-1]), base=parts)
    return pa.py_buffer(b"".join(parts))
