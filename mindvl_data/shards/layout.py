"""The columns of a shard file, as docs/format.md has them, and how it is called."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.errors import UserError

MAX_BATCH_PACKS = 16
MAX_BATCH_BYTES = 32 << 20
SAMPLE_ID_BYTES = 16


class ShardError(UserError):
    """A shard that cannot be read as what it should be; the message says which file and what to do."""


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


def pack_bytes(seq_len: int, image_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """What packs add to a shard, near enough to close shards by: tokens, mask bits, image bytes."""
    return 4 * seq_len + seq_len // 8 + image_bytes


def borders(sizes: NDArray[np.int64], most_bytes: int, most_packs: int | None = None) -> list[tuple[int, int]]:
    """(first, end) of packs in a row, closed before they would pass so many bytes or packs; a larger one is alone.

    sizes: of each pack (`pack_bytes`), int64.
    """
    found, first, size = [], 0, 0
    for number, more in enumerate(sizes.tolist()):
        if number > first and (size + more > most_bytes or number - first == most_packs):
            found.append((first, number))
            first, size = number, 0
        size += more
    return [*found, (first, len(sizes))] if len(sizes) else found


def batch_borders(sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(first, end) of the packs of every record batch of a shard."""
    return borders(sizes, MAX_BATCH_BYTES, MAX_BATCH_PACKS)


# A frame of a clip: fields as `Frame` has them.
FRAME = pa.struct(
    [
        ("index", pa.int32()),
        ("time", pa.float64()),
        ("pts", pa.int64()),
        ("key", pa.int64()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
# What an entry of `images` has besides in a set with video.
VIDEO = (pa.field("seconds_per_grid", pa.float64()), pa.field("frames", pa.list_(FRAME)))


def schema(seq_len: int, video: bool = False, weighted: bool = False) -> pa.Schema:
    """The Arrow schema of a shard, column for column as docs/format.md has it.

    Args:
        seq_len: Tokens of a pack.
        video: Whether the set has clips.
        weighted: Whether any loss token of the set weighs anything else than 1.
    """
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
            *(VIDEO if video else ()),
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
            *([("loss_weight", pa.list_(pa.float32(), seq_len))] if weighted else []),
        ]
    )
