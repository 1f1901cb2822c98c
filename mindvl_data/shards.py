"""The pack shard: one Arrow IPC file, one line a pack of exactly `seq_len` tokens.

The layout is the contract between the engine and any trainer (docs/format.md). Record batches are small, so
that one pack is one range read; buffers are uncompressed, so that a memory map is the array.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.errors import UserError

MAX_BATCH_PACKS = 16
MAX_BATCH_BYTES = 32 << 20
SAMPLE_ID_BYTES = 16
Digest: TypeAlias = bytes


class ShardError(UserError):
    """A shard that cannot be read as what it should be; the message says which file and what to do."""


@dataclass(frozen=True)
class PackImage:
    """One image of a pack: its place among the tokens, its grid in patches before the merge, its bytes."""

    start: int
    grid: tuple[int, int, int]
    data: bytes | None = None
    uri: str | None = None
    offset: int | None = None
    size: int | None = None
    sha256: bytes | None = None

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1] * self.grid[2]


@dataclass(frozen=True)
class Pack:
    """One training sequence of `seq_len` tokens.

    tokens: int32 [seq_len], image placeholders expanded. loss_mask: bool [seq_len], true where the token is
    itself a target (unshifted). cu_seqlens: int32 [segments + 1], 0 … seq_len; padding is one last segment.
    num_tokens: where the padding begins. sample_ids, sources, repeats: one entry a real segment.
    """

    index: int
    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    cu_seqlens: NDArray[np.int32]
    num_tokens: int
    sample_ids: tuple[bytes, ...]
    sources: tuple[str, ...]
    repeats: tuple[int, ...]
    images: tuple[PackImage, ...]
    num_patches: int
    attention_cost: int
    vision_cost: int

    @property
    def seq_len(self) -> int:
        return len(self.tokens)

    def without_loss(self) -> Pack:
        """The same pack with nothing to learn from: what fills the last batch of an epoch."""
        return replace(self, loss_mask=np.zeros_like(self.loss_mask))


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard; `pack_digests` (32 bytes each) make the manifest's id."""

    path: str
    packs: int
    bytes: int
    sha256: str
    pack_digests: tuple[Digest, ...] = ()


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


def schema(seq_len: int) -> pa.Schema:
    """The Arrow schema of a shard, column for column as docs/format.md has it."""
    image = pa.struct(
        [
            ("start", pa.int32()),
            ("grid_t", pa.int16()),
            ("grid_h", pa.int16()),
            ("grid_w", pa.int16()),
            ("bytes", pa.large_binary()),
            ("uri", pa.string()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("sha256", pa.binary(32)),
        ]
    )
    return pa.schema(
        [
            ("tokens", pa.list_(pa.int32(), seq_len)),
            ("loss_mask", pa.list_(pa.bool_(), seq_len)),
            ("cu_seqlens", pa.list_(pa.int32())),
            ("num_tokens", pa.int32()),
            ("sample_id", pa.list_(pa.binary(SAMPLE_ID_BYTES))),
            ("source", pa.list_(pa.dictionary(pa.int16(), pa.string()))),
            ("repeat", pa.list_(pa.int16())),
            ("images", pa.list_(image)),
            ("num_patches", pa.int32()),
            ("attention_cost", pa.int64()),
            ("vision_cost", pa.int64()),
        ]
    )


def attention_cost(cu_seqlens: NDArray[np.int32], num_tokens: int) -> int:
    """Σ l² over the real segments (padding attends to nothing that counts)."""
    lengths = np.diff(cu_seqlens[cu_seqlens <= num_tokens]).astype(np.int64)
    return int((lengths**2).sum())


def vision_cost(images: Iterable[PackImage]) -> int:
    """Σ (grid_h · grid_w)² · grid_t over the images: attention inside the vision tower."""
    return sum((h * w) ** 2 * t for t, h, w in (image.grid for image in images))


def pack_digest(pack: Pack) -> bytes:
    """SHA-256 of a pack's content alone; independent of Arrow, of shard borders and of recipe names."""
    digest = hashlib.sha256()
    for array, dtype in ((pack.tokens, "<i4"), (pack.cu_seqlens, "<i4")):
        digest.update(len(array).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(array, dtype=dtype).data)
    digest.update(np.packbits(pack.loss_mask, bitorder="little").data)
    digest.update(b"".join(pack.sample_ids))
    for image in pack.images:
        digest.update(np.array([image.start, *image.grid], "<i8").data)
        digest.update(image.sha256 or f"{image.uri}\0{image.offset}\0{image.size}".encode())
    return digest.digest()


def content_id(pack_digests: Iterable[bytes]) -> str:
    """A manifest's id: the hash of its packs' digests in order, hexadecimal."""
    return hashlib.sha256(b"".join(pack_digests)).hexdigest()


# ---------------------------------------------------------------------------------------------- writing


def write_shard(path: Path, packs: Iterable[Pack], seq_len: int, sources: Sequence[str]) -> ShardInfo:
    """Write packs in order to `path`, which appears whole (rename after fsync) or not at all.

    sources: every source name of the data set, in a fixed order: the file's one dictionary.
    """
    partial = path.with_suffix(".partial")
    digests: list[bytes] = []
    with partial.open("wb") as file:
        sink = _HashingFile(file)
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema(seq_len)) as writer:
            for group in _batches(packs):
                digests += [pack_digest(pack) for pack in group]
                writer.write_batch(_record_batch(group, seq_len, sources))
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    return ShardInfo(path.name, len(digests), sink.size, sink.digest.hexdigest(), tuple(digests))


class _HashingFile(io.RawIOBase):
    """Hashes what passes through, so that a shard is never read again to be hashed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


def _batches(packs: Iterable[Pack]) -> Iterator[list[Pack]]:
    group: list[Pack] = []
    size = 0
    for pack in packs:
        more = pack_bytes(pack.seq_len, sum(len(image.data or b"") for image in pack.images))
        if group and (len(group) == MAX_BATCH_PACKS or size + more > MAX_BATCH_BYTES):
            yield group
            group, size = [], 0
        group.append(pack)
        size += more
    if group:
        yield group


def pack_bytes(seq_len: int, image_bytes: int) -> int:
    """What one pack adds to a shard, near enough to close shards by: tokens, mask bits, image bytes."""
    return 4 * seq_len + seq_len // 8 + image_bytes


def _record_batch(packs: list[Pack], seq_len: int, sources: Sequence[str]) -> pa.RecordBatch:
    code = {name: number for number, name in enumerate(sources)}
    names = pa.DictionaryArray.from_arrays(
        pa.array([code[name] for pack in packs for name in pack.sources], pa.int16()),
        pa.array(list(sources), pa.string()),
    )
    tokens = np.concatenate([pack.tokens for pack in packs]).astype(np.int32, copy=False)
    mask = np.concatenate([pack.loss_mask for pack in packs])
    segments = [len(pack.sample_ids) for pack in packs]
    columns = [
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
        _list_array([len(pack.images) for pack in packs], _image_array(packs, seq_len)),
        pa.array([pack.num_patches for pack in packs], pa.int32()),
        pa.array([pack.attention_cost for pack in packs], pa.int64()),
        pa.array([pack.vision_cost for pack in packs], pa.int64()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema(seq_len))


def _list_array(counts: list[int], values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _image_array(packs: list[Pack], seq_len: int) -> pa.Array:
    images = [image for pack in packs for image in pack.images]
    fields: Mapping[str, list[Any]] = {
        "start": [image.start for image in images],
        "grid_t": [image.grid[0] for image in images],
        "grid_h": [image.grid[1] for image in images],
        "grid_w": [image.grid[2] for image in images],
        "bytes": [image.data for image in images],
        "uri": [image.uri for image in images],
        "offset": [image.offset for image in images],
        "size": [image.size for image in images],
        "sha256": [image.sha256 for image in images],
    }
    kind = schema(seq_len).field("images").type.value_type
    arrays = [pa.array(fields[field.name], field.type) for field in kind]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


# ---------------------------------------------------------------------------------------------- reading


class ShardReader:
    """Random access to the packs of one shard through a memory map. Use as a context manager, or close()."""

    def __init__(self, path: Path, first_pack: int = 0) -> None:
        """`first_pack`: the place in the manifest of this shard's first pack."""
        self.path = path
        self._first = first_pack
        try:
            self._map = pa.memory_map(str(path))
            self._file = pa.ipc.open_file(self._map)
        except (OSError, pa.ArrowInvalid) as error:
            raise ShardError(f"{path}: not a readable pack shard ({error}); rebuild it or copy it again") from error
        sizes = [self._file.get_batch(i).num_rows for i in range(self._file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        kind = self._file.schema.field("tokens").type
        if self._file.schema != schema(kind.list_size):
            raise ShardError(f"{path}: its columns are not those of a pack shard of this version")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._map.close()

    def __getitem__(self, place: int) -> Pack:
        """The pack at `place` within this shard (0 … len - 1)."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        row = self._file.get_batch(number).slice(place - int(self._starts[number]), 1)
        return _read_pack(row, self._first + place)

    def __iter__(self) -> Iterator[Pack]:
        for number in range(self._file.num_record_batches):
            batch = self._file.get_batch(number)
            for i in range(batch.num_rows):
                yield _read_pack(batch.slice(i, 1), self._first + int(self._starts[number]) + i)


def _read_pack(row: pa.RecordBatch, index: int) -> Pack:
    """`row`: a record batch of one line."""

    def numbers(name: str) -> Any:
        return row.column(name).flatten().to_numpy(zero_copy_only=False)

    return Pack(
        index=index,
        tokens=numbers("tokens"),
        loss_mask=numbers("loss_mask"),
        cu_seqlens=numbers("cu_seqlens"),
        num_tokens=row.column("num_tokens")[0].as_py(),
        sample_ids=tuple(row.column("sample_id").flatten().to_pylist()),
        sources=tuple(row.column("source").flatten().to_pylist()),
        repeats=tuple(row.column("repeat").flatten().to_pylist()),
        images=tuple(_read_image(image) for image in row.column("images").flatten().to_pylist()),
        num_patches=row.column("num_patches")[0].as_py(),
        attention_cost=row.column("attention_cost")[0].as_py(),
        vision_cost=row.column("vision_cost")[0].as_py(),
    )


def _read_image(row: dict[str, Any]) -> PackImage:
    grid = (row["grid_t"], row["grid_h"], row["grid_w"])
    return PackImage(row["start"], grid, row["bytes"], row["uri"], row["offset"], row["size"], row["sha256"])


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -------------------------------------------------------------------------------------------- verifying


def pack_problems(pack: Pack, special_ids: Mapping[str, int], vocab_size: int, merge: int) -> list[str]:
    """Every rule of the contract that this pack breaks, in words; empty when it is sound."""
    cu, n = pack.cu_seqlens, pack.num_tokens
    if len(cu) < 2 or cu[0] != 0 or cu[-1] != pack.seq_len or (np.diff(cu) <= 0).any():
        return ["cu_seqlens does not rise from 0 to seq_len"]
    segments = int(np.searchsorted(cu, n))
    if cu[segments] != n or len(cu) - 1 - segments > 1:
        return [f"num_tokens {n} is no segment border followed by at most one padding segment"]
    checks = {
        "sample_id, source and repeat are not one a real segment": len(
            {segments, len(pack.sample_ids), len(pack.sources), len(pack.repeats)}
        )
        == 1,
        "a token is outside the vocabulary": pack.tokens.min() >= 0 and pack.tokens.max() < vocab_size,
        "padding is not the end-of-text token": (pack.tokens[n:] == special_ids["end_of_text"]).all(),
        "loss on padding": not pack.loss_mask[n:].any(),
        "loss on a segment's first token": not pack.loss_mask[cu[:-1]].any(),
        "loss on an image placeholder": not pack.loss_mask[pack.tokens == special_ids["image_pad"]].any(),
        "no token to learn from": pack.loss_mask.any(),
        "num_patches is not the sum of its grids": pack.num_patches == sum(i.num_patches for i in pack.images),
        "attention_cost is wrong": pack.attention_cost == attention_cost(cu, n),
        "vision_cost is wrong": pack.vision_cost == vision_cost(pack.images),
    }
    return [problem for problem, holds in checks.items() if not holds] + _image_problems(pack, special_ids, merge)


def _image_problems(pack: Pack, special_ids: Mapping[str, int], merge: int) -> list[str]:
    problems = []
    covered = np.zeros(pack.seq_len, bool)
    for number, image in enumerate(pack.images):
        stop = image.start + image.num_patches // merge**2
        covered[image.start : stop] = True
        framed = 0 < image.start < stop < pack.seq_len and (
            pack.tokens[image.start - 1] == special_ids["vision_start"]
            and pack.tokens[stop] == special_ids["vision_end"]
        )
        if not framed:
            problems.append(f"image {number} is not framed by vision-start and vision-end")
        if image.data is None and image.uri is None:
            problems.append(f"image {number} has neither bytes nor a place to read them")
        if image.data is not None and image.sha256 != hashlib.sha256(image.data).digest():
            problems.append(f"the bytes of image {number} do not have their sha256")
    if not np.array_equal(covered, pack.tokens == special_ids["image_pad"]):
        problems.append("the image placeholders are not exactly the runs of its images")
    return problems
