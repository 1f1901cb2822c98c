"""The pack shard: one Arrow IPC file, one line a pack of exactly `seq_len` tokens.

The layout is the contract between the engine and any trainer (docs/format.md). Record batches are small, so
that one pack is one range read; buffers are uncompressed, so that a memory map is the array.
"""

from mindvl_data.shards.cache import ShardCache, cache_folder
from mindvl_data.shards.checking import pack_problems
from mindvl_data.shards.fetching import Patience, StoreError, patiently
from mindvl_data.shards.ids import places_among
from mindvl_data.shards.layout import ShardError, schema, shard_name
from mindvl_data.shards.once import locked, sha256_once
from mindvl_data.shards.pack import Pack, PackImage, attention_cost, content_id, pack_digest, padding_pack, vision_cost
from mindvl_data.shards.reading import ShardReader, read_costs
from mindvl_data.shards.segments import SegmentTable, joined, joined_tables
from mindvl_data.shards.stores import RedirectedError, store_of
from mindvl_data.shards.writing import ShardInfo, file_sha256, pack_bytes, write_shard
from mindvl_data.vision.video.frame import Frame

__all__ = [
    "Frame",
    "Pack",
    "PackImage",
    "Patience",
    "RedirectedError",
    "SegmentTable",
    "ShardCache",
    "ShardError",
    "ShardInfo",
    "ShardReader",
    "StoreError",
    "attention_cost",
    "cache_folder",
    "content_id",
    "file_sha256",
    "joined",
    "joined_tables",
    "locked",
    "pack_bytes",
    "pack_digest",
    "pack_problems",
    "padding_pack",
    "patiently",
    "places_among",
    "read_costs",
    "schema",
    "sha256_once",
    "shard_name",
    "store_of",
    "vision_cost",
    "write_shard",
]
