"""Which samples a set was made of: all of them in order, and a subset by uid that DataComp's tools and `uids` read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.exports.records import Record
from mindvl_data.manifest import Manifest

COLUMNS = ("sample_id", "source", "repeat", "uid")
HEX_DIGITS = 32
ROWS = 65_536


def uids(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """`samples.parquet` in the mixture's order; `<source>.npy`, sorted pairs of u8, where all uids have 32 digits."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    schema = pa.schema([(name, pa.int32() if name == "repeat" else pa.string()) for name in COLUMNS])
    with pq.ParquetWriter(folder / "samples.parquet", schema, compression="zstd") as writer:
        rows: list[dict[str, object]] = []
        for record in records:
            rows.append({name: record.meta[name] for name in COLUMNS})
            found[record.meta["source"]].append(record.meta["uid"])
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    for source, names in found.items():
        if all(_is_number(name) for name in names):
            pairs = np.array([(int(name[:16], 16), int(name[16:], 16)) for name in names], "u8,u8")
            np.save(folder / f"{source}.npy", np.sort(pairs), allow_pickle=False)


uids.samples_only = True  # type: ignore[attr-defined]


def _is_number(name: str) -> bool:
    return len(name) == HEX_DIGITS and all(digit in "0123456789abcdefABCDEF" for digit in name)
