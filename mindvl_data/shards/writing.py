"""Writing a shard: packs in order become one file, hashed as it is written, that appears whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from mindvl_data.atomic import whole
from mindvl_data.shards.columns import PackColumns, bytes_array, image_array
from mindvl_data.shards.digests import batch_digests
from mindvl_data.shards.layout import SAMPLE_ID_BYTES, batch_borders, pack_bytes, schema
from mindvl_data.shards.pack import Pack, PackImage
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


def write_batches(path: Path, batches: Iterable[pa.RecordBatch], columns: pa.Schema) -> ShardInfo:
    """Write record batches in order to `path`, which appears whole (rename after fsync) or not at all.

    batches: of as many packs as `batch_borders` says; columns: their schema.
    """
    digests: list[Digest] = []
    with whole(path) as partial, partial.open("wb") as file, HashingFile(file) as sink:
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), columns) as writer:
            for batch in batches:
                digests += batch_digests(batch)
                writer.write_batch(batch)
        sha256 = sink.finish()
    return ShardInfo(path.name, len(digests), sink.size, sha256, tuple(digests))


def write_shard(
    path: Path,
    packs: Iterable[Pack],
    seq_len: int,
    sources: Sequence[str],
    video: bool = False,
    weighted: bool = False,
) -> ShardInfo:
    """Write packs in order to `path`, as `write_batches` does.

    Args:
        path: Of the shard.
        packs: Each of `seq_len` tokens.
        seq_len: Tokens of a pack.
        sources: Every source name of the data set, in a fixed order: the file's one dictionary.
        video: Whether the set has clips.
        weighted: Whether any loss token of the set weighs anything else than 1.

    Returns:
        What a manifest says of the shard, and the digest of each of its packs.
    """
    columns, given = schema(seq_len, video, weighted), list(packs)
    sizes = [sum(len(data or b"") for data in _own_bytes(pack.images)) for pack in given]
    borders = batch_borders(pack_bytes(seq_len, np.array(sizes, np.int64)))
    code = {name: number for number, name in enumerate(sources)}
    made = (_columns(given[first:end], code, columns) for first, end in borders)
    return write_batches(path, (some.record_batch(columns, sources) for some in made), columns)


def _own_bytes(images: Sequence[PackImage]) -> Iterator[bytes | memoryview | None]:
    """The bytes that stand in each entry: of a clip only in the first of those in a row that share it."""
    before = None
    for image in images:
        again = image.is_video and image.data is not None and image.data is before
        before = image.data
        yield None if again else image.data


def _columns(packs: Sequence[Pack], code: dict[str, int], columns: pa.Schema) -> PackColumns:
    def each(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(pack, name) for pack in packs], dtype)

    ids = b"".join(uid for pack in packs for uid in pack.sample_ids)
    weights = [np.ones(p.seq_len) if p.loss_weights is None else p.loss_weights for p in packs]
    return PackColumns(
        tokens=each("tokens", np.int32),
        loss_mask=each("loss_mask", np.bool_),
        cu_seqlens=np.concatenate([pack.cu_seqlens for pack in packs]),
        num_borders=np.array([len(pack.cu_seqlens) for pack in packs]),
        num_tokens=each("num_tokens", np.int64),
        num_segments=np.array([len(pack.sample_ids) for pack in packs]),
        sample_ids=np.frombuffer(ids, np.uint8).reshape(-1, SAMPLE_ID_BYTES),
        sources=np.array([code[name] for pack in packs for name in pack.sources], np.int16),
        repeats=np.array([repeat for pack in packs for repeat in pack.repeats], np.int16),
        num_images=np.array([len(pack.images) for pack in packs]),
        images=_image_array(packs, columns.field("images").type.value_type),
        num_patches=each("num_patches", np.int64),
        attention_cost=each("attention_cost", np.int64),
        vision_cost=each("vision_cost", np.int64),
        loss_weights=np.array(weights, np.float32),
    )


def _image_array(packs: Sequence[Pack], kind: pa.StructType) -> pa.Array:
    images = [image for pack in packs for image in pack.images]
    data = list(chain.from_iterable(_own_bytes(pack.images) for pack in packs))
    fields = {
        "start": [image.start for image in images],
        "grid_t": [image.grid[0] for image in images],
        "grid_h": [image.grid[1] for image in images],
        "grid_w": [image.grid[2] for image in images],
        "uri": [image.uri for image in images],
        "offset": [image.offset for image in images],
        "size": [image.size for image in images],
        "sha256": [image.sha256 for image in images],
        "seconds_per_grid": [image.seconds_per_grid for image in images],
        "frames": [[vars(frame) for frame in image.frames] for image in images],
    }
    arrays = {field.name: pa.array(fields[field.name], field.type) for field in kind if field.name in fields}
    sizes = np.array([len(one or b"") for one in data], np.int64)
    there = np.array([one is not None for one in data], np.bool_)
    arrays["bytes"] = bytes_array(pa.py_buffer(b"".join(one or b"" for one in data)), sizes, there)
    return image_array(kind, len(images), arrays)
