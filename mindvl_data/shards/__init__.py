"""The pack shard: one Arrow IPC file, one line a pack of exactly `seq_len` tokens.

The layout is the contract between the engine and any trainer (docs/format.md). Record batches are small, so
that one pack is one range read; buffers are uncompressed, so that a memory map is the array.
"""

from mindvl_data.shards.cache import ShardCache, cache_folder
from mindvl_data.shards.checking import pack_problems
from mindvl_data.shards.columns import PackColumns, binary_array, bytes_array, image_array
from mindvl_data.shards.digests import batch_digests, content_id, pack_digest
from mindvl_data.shards.fetching import Patience, StoreError, patiently
from mindvl_data.shards.ids import places_among
from mindvl_data.shards.layout import ShardError, batch_borders, borders, pack_bytes, schema, shard_name
from mindvl_data.shards.once import locked, sha256_once
from mindvl_data.shards.pack import Pack, PackImage, attention_cost, padding_pack, vision_cost
from mindvl_data.shards.reading import ShardReader, read_costs
from mindvl_data.shards.segments import SegmentTable, joined, joined_tables
from mindvl_data.shards.stores import RedirectedError, store_of
from mindvl_data.shards.writing import ShardInfo, file_sha256, write_batches, write_shard
from mindvl_data.vision.video.frame import Frame

__all__ = [
    "Frame",
    "Pack",
    "PackColumns",
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
    "batch_borders",
    "batch_digests",
    "binary_array",
    "borders",
    "bytes_array",
    "cache_folder",
    "content_id",
    "file_sha256",
    "image_array",
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
    "write_batches",
    "write_shard",
]
