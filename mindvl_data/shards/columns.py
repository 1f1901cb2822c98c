"""Packs as columns, and the record batch that they become: what a shard holds many of is never a row object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.shards.layout import SAMPLE_ID_BYTES


@dataclass(frozen=True)
class PackColumns:
    """p packs in a row, with s real segments and n images between them.

    Attributes:
        tokens: int32 [p, seq_len].
        loss_mask: bool [p, seq_len].
        cu_seqlens: int32, those of each pack after those of the one before; num_borders: int64 [p], how many of each.
        num_tokens: int64 [p], where the padding begins.
        num_segments: int64 [p], real ones.
        sample_ids: uint8 [s, 16].
        sources: int16 [s], numbers among the set's sources.
        repeats: int16 [s].
        num_images: int64 [p].
        images: struct [n], as the schema has it (`image_array`).
        num_patches, attention_cost, vision_cost: int64 [p].
        loss_weights: float32 [p, seq_len]; None in a set without.
    """

    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    cu_seqlens: NDArray[np.int32]
    num_borders: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    num_segments: NDArray[np.int64]
    sample_ids: NDArray[np.uint8]
    sources: NDArray[np.int16]
    repeats: NDArray[np.int16]
    num_images: NDArray[np.int64]
    images: pa.StructArray
    num_patches: NDArray[np.int64]
    attention_cost: NDArray[np.int64]
    vision_cost: NDArray[np.int64]
    loss_weights: NDArray[np.float32] | None = None

    def record_batch(self, schema: pa.Schema, sources: Sequence[str]) -> pa.RecordBatch:
        """The packs as lines of a shard of this schema; sources: the names of all that the set has, in their order."""
        seq_len = self.tokens.shape[1]
        names = pa.DictionaryArray.from_arrays(pa.array(self.sources, pa.int16()), pa.array(list(sources), pa.string()))
        arrays = [
            _rows(self.tokens, pa.int32()),
            _rows(self.loss_mask, pa.bool_()),
            _lists(self.num_borders, pa.array(self.cu_seqlens, pa.int32())),
            pa.array(self.num_tokens, pa.int32()),
            _lists(self.num_segments, binary_array(self.sample_ids, pa.binary(SAMPLE_ID_BYTES))),
            _lists(self.num_segments, names),
            _lists(self.num_segments, pa.array(self.repeats, pa.int16())),
            _lists(self.num_images, self.images),
            pa.array(self.num_patches, pa.int32()),
            pa.array(self.attention_cost, pa.int64()),
            pa.array(self.vision_cost, pa.int64()),
        ]
        if "loss_weight" in schema.names:
            weights = self.loss_weights
            arrays.append(_rows(np.ones((len(self.tokens), seq_len)) if weights is None else weights, pa.float32()))
        return pa.RecordBatch.from_arrays(arrays, schema=schema)


def image_array(kind: pa.StructType, count: int, fields: Mapping[str, pa.Array]) -> pa.StructArray:
    """Images by the fields of the schema; a field that is not given is null in all of them."""
    # Not `pa.nulls`: its buffers are longer than the column, and a file has them as they are.
    arrays = [fields.get(field.name, pa.array([None] * count, field.type)) for field in kind]
    return pa.StructArray.from_arrays(arrays, fields=list(kind))


def binary_array(rows: NDArray[np.uint8], kind: pa.DataType, there: NDArray[np.bool_] | None = None) -> pa.Array:
    """uint8 [n, width] as n values of `width` bytes, null where they are not `there`."""
    if there is None or there.all():
        return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))])
    values = pa.py_buffer(np.where(there[:, None], rows, np.uint8(0)))
    return pa.Array.from_buffers(kind, len(rows), [_bits(there), values])


def bytes_array(data: pa.Buffer, sizes: NDArray[np.int64], there: NDArray[np.bool_] | None = None) -> pa.Array:
    """large_binary [n] of values that lie in a row in `data`, which is not copied; null where they are not `there`."""
    offsets = pa.py_buffer(np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))
    missing = None if there is None or there.all() else _bits(there)
    return pa.Array.from_buffers(pa.large_binary(), len(sizes), [missing, offsets, data])


def numbers(column: pa.Array) -> NDArray[Any]:
    """A column without nulls as the array that its buffer is; Arrow's own way loads pandas first, where it is there."""
    if pa.types.is_boolean(column.type):
        bits = np.frombuffer(column.buffers()[1], np.uint8)
        return np.unpackbits(bits, count=column.offset + len(column), bitorder="little")[column.offset :].astype(bool)
    dtype = column.type.to_pandas_dtype()
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)]


def binary_rows(column: pa.Array) -> NDArray[np.uint8]:
    """A column of n values of `width` bytes without nulls, uint8 [n, width]."""
    width = column.type.byte_width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[width * column.offset : width * (column.offset + len(column))].reshape(-1, width)


def lengths(lists: pa.ListArray) -> NDArray[np.int64]:
    """How many values each list has, int64 [n]."""
    offsets = np.frombuffer(lists.buffers()[1], np.int32)[lists.offset : lists.offset + len(lists) + 1]
    return np.diff(offsets).astype(np.int64)


def _bits(there: NDArray[np.bool_]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(there, bitorder="little"))


def _rows(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), kind), values.shape[1])


def _lists(counts: NDArray[np.int64], values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
