"""Rows to Parquet files of some size, `data/train-00000.parquet` …"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SHARD_BYTES = 256 << 20
ROWS = 64


def write_rows(
    rows: Iterator[tuple[Mapping[str, Any], int]], folder: Path, schema: Callable[[list[str]], pa.Schema]
) -> None:
    """Write rows (each with the bytes of its images); the schema is made of the first row's names."""
    (folder / "data").mkdir()
    number, writer, waiting, size = 0, None, list[Mapping[str, Any]](), 0
    for row, weight in rows:
        waiting.append(row)
        size += weight
        if writer is None:
            writer = pq.ParquetWriter(folder / "data" / f"train-{number:05d}.parquet", schema(list(waiting[0])))
        if len(waiting) == ROWS or size >= SHARD_BYTES:
            writer.write_table(pa.Table.from_pylist(waiting, writer.schema))
            waiting = []
        if size >= SHARD_BYTES:
            writer.close()
            number, writer, size = number + 1, None, 0
    if writer is not None:
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, writer.schema))
        writer.close()
