"""The list of a set's draws beside its shards, against what the packs hold: columns, a part of the list at a time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.shards import Pack

COLUMNS = pa.schema(
    {
        "sample_id": pa.binary(16),
        "repeat": pa.int16(),
        "shard": pa.int32(),
        "pack": pa.int64(),
        "start": pa.int32(),
        "stop": pa.int32(),
    }
)
# The same as one array.
ROW = np.dtype([("id", "u1", 16), ("repeat", "i2"), ("shard", "i4"), ("pack", "i8"), ("start", "i4"), ("stop", "i4")])


def draws_of(pack: Pack, shard: int) -> NDArray[np.void]:
    """Where each draw of a pack lies, ROW [draws]; of a pack that is not sound those that have all they need."""
    count = min(len(pack.sample_ids), len(pack.repeats), len(pack.cu_seqlens) - 1)
    rows = np.empty(max(0, count), ROW)
    rows["id"] = np.frombuffer(b"".join(pack.sample_ids[:count]), np.uint8).reshape(-1, 16)
    rows["repeat"] = pack.repeats[:count]
    rows["shard"], rows["pack"] = shard, pack.index
    rows["start"], rows["stop"] = pack.cu_seqlens[:count], pack.cu_seqlens[1 : count + 1]
    return rows


def are_listed(path: Path, parts: Iterable[NDArray[np.void]]) -> bool:
    """Whether a list holds exactly these draws, by sample id and repeat.

    Args:
        path: The list, a Parquet file.
        parts: Of the draws in the order of their packs, ROW each.

    Raises:
        pyarrow.ArrowException, OSError: It cannot be read, or its columns are of other types.
    """
    rows = np.concatenate([np.empty(0, ROW), *parts])
    words = np.ascontiguousarray(rows["id"]).view(">u8")
    order = np.lexsort((rows["repeat"], words[:, 1], words[:, 0]))
    with pq.ParquetFile(path) as file:
        if file.schema_arrow.names != COLUMNS.names or file.metadata.num_rows != len(rows):
            return False
        done = 0
        for group in range(file.num_row_groups):
            listed = pa.table(file.read_row_group(group)).cast(COLUMNS)
            if not listed.equals(_table(rows[order[done : done + len(listed)]])):
                return False
            done += len(listed)
    return True


def _table(rows: NDArray[np.void]) -> pa.Table:
    ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(rows), [None, pa.py_buffer(rows["id"].tobytes())])
    return pa.table([ids, *(pa.array(rows[name]) for name in COLUMNS.names[1:])], schema=COLUMNS)
