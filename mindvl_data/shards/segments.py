"""Packs taken apart and put together anew: which segments a shard holds, and a pack of segments from several.

What an epoch selects is packed anew without writing a shard: the plan names segments of packs that are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.shards.columns import lengths, numbers
from mindvl_data.shards.pack import Pack, attention_cost, vision_cost


@dataclass(frozen=True)
class SegmentTable:
    """The real segments of n samples' draws, in the order of their packs.

    Attributes:
        ids: uint64 [n, 2], the halves of the sample ids as they lie in memory.
        repeat: int16 [n].
        pack: int64 [n], the number of its pack in the manifest.
        number: int32 [n], its number within the pack.
        length: int32 [n], tokens.
        patches: int32 [n], before the merge.
    """

    ids: NDArray[np.uint64]
    repeat: NDArray[np.int16]
    pack: NDArray[np.int64]
    number: NDArray[np.int32]
    length: NDArray[np.int32]
    patches: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.pack)


def segments_in(batch: pa.RecordBatch, first_pack: int) -> SegmentTable:
    """The segments of a shard's record batch whose first pack has this number; tokens and image bytes stay unread."""
    ids, borders, images = (batch.column(name) for name in ("sample_id", "cu_seqlens", "images"))
    counts, seq_len = lengths(ids), batch.schema.field("tokens").type.list_size
    owner = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    stops = _ints(borders.flatten())
    begin = np.repeat(np.cumsum(lengths(borders)) - lengths(borders), counts) + number
    flat = images.flatten()
    start, *grid = (_ints(flat.field(name)) for name in ("start", "grid_t", "grid_h", "grid_w"))
    picture = np.repeat(np.arange(len(counts)), lengths(images)) * seq_len + start
    # Every image lies in the last segment that begins before it.
    holder = np.searchsorted(owner * seq_len + stops[begin], picture, side="right") - 1
    values = ids.flatten()
    raw = np.frombuffer(values.buffers()[1], np.uint64)[2 * values.offset : 2 * (values.offset + len(values))]
    return SegmentTable(
        ids=raw.reshape(-1, 2),
        repeat=_ints(batch.column("repeat").flatten()).astype(np.int16),
        pack=first_pack + owner,
        number=number.astype(np.int32),
        length=(stops[begin + 1] - stops[begin]).astype(np.int32),
        patches=np.bincount(holder, np.prod(grid, axis=0), len(owner)).astype(np.int32),
    )


def joined_tables(tables: Iterable[SegmentTable]) -> SegmentTable:
    """One table behind another."""
    some = list(tables)
    return SegmentTable(*(np.concatenate([getattr(t, name) for t in some]) for name in SegmentTable.__annotations__))


def joined(segments: Sequence[Pack], weights: Sequence[float], seq_len: int, pad_id: int) -> Pack:
    """Segments as one pack of `seq_len` tokens, padding last.

    Args:
        segments: Packs of one segment without padding.
        weights: What a loss token of each weighs besides.
        seq_len: Tokens of the pack.
        pad_id: Of each token of its padding.
    """
    starts = list(accumulate((len(one.tokens) for one in segments), initial=0))
    padding = seq_len - starts[-1]
    images = tuple(
        replace(image, start=image.start + start)
        for one, start in zip(segments, starts, strict=False)
        for image in one.images
    )
    cu_seqlens = np.array(starts + ([seq_len] if padding else []), np.int32)
    return Pack(
        index=segments[0].index,
        tokens=np.concatenate([*(one.tokens for one in segments), np.full(padding, pad_id, np.int32)]),
        loss_mask=np.concatenate([*(one.loss_mask for one in segments), np.zeros(padding, bool)]),
        cu_seqlens=cu_seqlens,
        num_tokens=starts[-1],
        sample_ids=tuple(one.sample_ids[0] for one in segments),
        sources=tuple(one.sources[0] for one in segments),
        repeats=tuple(one.repeats[0] for one in segments),
        images=images,
        num_patches=sum(image.num_patches for image in images),
        attention_cost=attention_cost(cu_seqlens, starts[-1]),
        vision_cost=vision_cost(images),
        weights=tuple(weights),
        loss_weights=_loss_weights(segments, padding),
    )


def _loss_weights(segments: Sequence[Pack], padding: int) -> NDArray[np.float32] | None:
    if all(one.loss_weights is None for one in segments):
        return None
    of = [np.ones(len(one.tokens), np.float32) if one.loss_weights is None else one.loss_weights for one in segments]
    return np.concatenate([*of, np.ones(padding, np.float32)])


def _ints(column: pa.Array) -> NDArray[np.int64]:
    """A column of integers without nulls, int64."""
    return numbers(column).astype(np.int64)
