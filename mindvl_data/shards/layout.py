"""The columns of a shard file, as docs/format.md has them, and how it is called."""

from __future__ import annotations

import pyarrow as pa

from mindvl_data.errors import UserError

MAX_BATCH_PACKS = 16
MAX_BATCH_BYTES = 32 << 20
SAMPLE_ID_BYTES = 16


class ShardError(UserError):
    """A shard that cannot be read as what it should be; the message says which file and what to do."""


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.arrow"


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

    video: of a set with clips; weighted: of one where a loss token weighs anything else than 1.
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
