"""Reading a shard: any pack at random, through a memory map."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.errors import UserError
from mindvl_data.shards.columns import numbers
from mindvl_data.shards.layout import ShardError, schema
from mindvl_data.shards.pack import Pack, PackImage, attention_cost, vision_cost
from mindvl_data.shards.segments import SegmentTable, joined_tables, segments_in
from mindvl_data.vision.video.frame import Frame

COSTS = ("attention_cost", "num_patches")


def read_costs(file: IO[bytes]) -> NDArray[np.int64]:
    """What every pack of an open shard costs, int64 [packs, 2]: Σ l² and patches. No other column is read.

    Raises ShardError, which cannot name the file, when it is no shard.
    """
    try:
        columns = pa.ipc.open_file(file).schema
        wanted = pa.ipc.IpcReadOptions(included_fields=[columns.get_field_index(name) for name in COSTS])
        table = pa.ipc.open_file(file, options=wanted).read_all()
        table.validate(full=True)
        if any(table.column(name).null_count for name in COSTS):
            raise pa.ArrowInvalid("a pack has no value in one of its columns")
        return np.stack([table.column(name).to_numpy().astype(np.int64) for name in COSTS], axis=1)
    except Exception as error:
        raise ShardError(f"not a readable pack shard ({error}); rebuild it or copy it again") from error


class ShardReader:
    """Random access to the packs of one shard through a memory map. Use as a context manager, or close()."""

    def __init__(self, path: Path, first_pack: int = 0) -> None:
        """`first_pack`: the place in the manifest of this shard's first pack."""
        self.path = path
        self._first = first_pack
        self._sound: set[int] = set()
        self._costs: NDArray[np.int64] | None = None
        with self._readable():
            self._map = pa.memory_map(str(path))
            self._file = pa.ipc.open_file(self._map)
            if not _known(self._file.schema):
                raise ShardError(f"{path}: its columns are not those of a pack shard of this version")
        sizes = [self._batch(i).num_rows for i in range(self._file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def costs(self) -> NDArray[np.int64]:
        """What every pack costs, int64 [packs, 2]: Σ l² and patches."""
        if self._costs is None:
            batches = [self._batch(number) for number in range(self._file.num_record_batches)]
            columns = [
                np.concatenate([numbers(batch.column(name)).astype(np.int64) for batch in batches]) for name in COSTS
            ]
            self._costs = np.stack(columns, axis=1)
        return self._costs

    def _batch(self, number: int) -> pa.RecordBatch:
        """A record batch. Its buffers are checked the first time: a wrong offset would be read wherever it leads."""
        with self._readable():
            batch = self._file.get_batch(number)
            if number not in self._sound:
                batch.validate(full=True)
                if any(batch.column(name).null_count for name in batch.schema.names):
                    raise pa.ArrowInvalid("a pack has no value in one of its columns")
                self._sound.add(number)
        return batch

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            message = f"{self.path}: not a readable pack shard ({error}); rebuild it or copy it again"
            raise ShardError(message) from error

    def close(self) -> None:
        self._map.close()

    def __getitem__(self, place: int) -> Pack:
        """The pack at `place` within this shard (0 … len - 1)."""
        if not 0 <= place < len(self):
            raise IndexError(place)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        row = self._batch(number).slice(place - int(self._starts[number]), 1)
        return _read_pack(row, self._first + place)

    def segment(self, place: int, number: int) -> Pack:
        """A segment of the pack at `place` alone, without padding; of the others' images nothing is read."""
        inside = int(np.searchsorted(self._starts, place, side="right")) - 1
        row = self._batch(inside).slice(place - int(self._starts[inside]), 1)
        return _read_segment(row, self._first + place, number)

    def segments(self) -> SegmentTable:
        """All real segments in order; tokens and image bytes stay unread."""
        starts = zip(range(self._file.num_record_batches), self._starts.tolist(), strict=False)
        return joined_tables(segments_in(self._batch(number), self._first + start) for number, start in starts)

    def __iter__(self) -> Iterator[Pack]:
        for number in range(self._file.num_record_batches):
            batch = self._batch(number)
            for i in range(batch.num_rows):
                yield _read_pack(batch.slice(i, 1), self._first + int(self._starts[number]) + i)


def _known(columns: pa.Schema) -> bool:
    """Whether they are a pack shard's, with or without weights and videos; raises what pyarrow does on broken names."""
    kind = columns.field("tokens").type if columns.names.count("tokens") == 1 else pa.null()
    return pa.types.is_fixed_size_list(kind) and any(
        columns == schema(kind.list_size, *has) for has in itertools.product((False, True), repeat=2)
    )


def _read_pack(row: pa.RecordBatch, index: int) -> Pack:
    """`row`: a record batch of one line."""

    def values(name: str) -> NDArray[Any]:
        return numbers(row.column(name).flatten())

    return Pack(
        index=index,
        tokens=values("tokens"),
        loss_mask=values("loss_mask"),
        cu_seqlens=values("cu_seqlens"),
        num_tokens=row.column("num_tokens")[0].as_py(),
        sample_ids=tuple(row.column("sample_id").flatten().to_pylist()),
        sources=tuple(row.column("source").flatten().to_pylist()),
        repeats=tuple(row.column("repeat").flatten().to_pylist()),
        images=_with_shared_bytes([_read_image(image) for image in row.column("images").flatten().to_pylist()]),
        num_patches=row.column("num_patches")[0].as_py(),
        attention_cost=row.column("attention_cost")[0].as_py(),
        vision_cost=row.column("vision_cost")[0].as_py(),
        loss_weights=values("loss_weight") if "loss_weight" in row.schema.names else None,
    )


def _read_segment(row: pa.RecordBatch, index: int, number: int) -> Pack:
    begin, stop = numbers(row.column("cu_seqlens").flatten())[number : number + 2].tolist()
    flat = row.column("images").flatten()
    starts = numbers(flat.field("start"))
    # An image stands where its first placeholder does, and images in the order of their places.
    first, last = np.searchsorted(starts, [begin, stop]).tolist()
    images = _with_shared_bytes([_read_image(image) for image in flat.slice(first, last - first).to_pylist()])
    cu_seqlens = np.array([0, stop - begin], np.int32)
    return Pack(
        index=index,
        tokens=numbers(row.column("tokens").flatten())[begin:stop],
        loss_mask=numbers(row.column("loss_mask").flatten())[begin:stop],
        cu_seqlens=cu_seqlens,
        num_tokens=stop - begin,
        sample_ids=(row.column("sample_id").flatten()[number].as_py(),),
        sources=(row.column("source").flatten()[number].as_py(),),
        repeats=(row.column("repeat").flatten()[number].as_py(),),
        images=tuple(replace(image, start=image.start - begin) for image in images),
        num_patches=sum(image.num_patches for image in images),
        attention_cost=attention_cost(cu_seqlens, stop - begin),
        vision_cost=vision_cost(images),
        loss_weights=(
            numbers(row.column("loss_weight").flatten())[begin:stop] if "loss_weight" in row.schema.names else None
        ),
    )


def _read_image(row: dict[str, Any]) -> PackImage:
    grid = (row["grid_t"], row["grid_h"], row["grid_w"])
    frames = tuple(Frame(**frame) for frame in row.get("frames") or ())
    seconds = row.get("seconds_per_grid") or 0.0
    pointer = (row["uri"], row["offset"], row["size"], row["sha256"])
    return PackImage(row["start"], grid, row["bytes"], *pointer, frames, seconds)


def _with_shared_bytes(images: Sequence[PackImage]) -> tuple[PackImage, ...]:
    """A clip's bytes stand in the first of its entries; the others get the same object."""
    shared: list[PackImage] = []
    for image in images:
        if image.is_video and image.data is None and image.uri is None and shared:
            image = replace(image, data=shared[-1].data)
        shared.append(image)
    return tuple(shared)
