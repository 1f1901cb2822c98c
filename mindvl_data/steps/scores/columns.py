"""Score columns on disk: a Parquet file of one or more columns beside a partition's samples table, line by line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl
import polars.selectors as cs
import pyarrow.parquet as pq

from mindvl_data.runtime import seals

DIGEST = b"mindvl_sha256"
MISSING = b"mindvl_missing"
SUMS = b"mindvl_sums"


def write_columns(table: pl.DataFrame, path: Path, sums: Mapping[str, int] | None = None) -> None:
    """Write `path`, which appears whole, with a hash of the values in its metadata, and `sums` for `sums_in`."""
    table = table.with_columns(cs.float().fill_nan(None))  # a NaN is a missing value
    arrow = table.to_arrow(compat_level=pl.CompatLevel.oldest())
    missing = sum(column.null_count() for column in table.iter_columns())
    notes = {DIGEST: _digest(table), MISSING: str(missing), SUMS: json.dumps(sums or {})}
    arrow = arrow.replace_schema_metadata(notes)
    with seals.sealed(path) as partial:
        pq.write_table(arrow, partial, compression="zstd")


def values_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of the values in these files, in their order: the same under any version of the file format."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(pq.read_schema(seals.checked(path)).metadata[DIGEST])
    return digest.hexdigest()


def missing_in(paths: Iterable[Path]) -> int:
    """How many values of these files are null."""
    return sum(int(pq.read_schema(seals.checked(path)).metadata[MISSING]) for path in paths)


def sums_in(paths: Iterable[Path]) -> dict[str, int]:
    """What was noted of these files, added up: the tokens that their answers took."""
    total: Counter[str] = Counter()
    for path in paths:
        total.update(json.loads(pq.read_schema(seals.checked(path)).metadata[SUMS]))
    return dict(sorted(total.items()))


def _digest(table: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for column in table.iter_columns():
        digest.update(f"{column.name}\0{column.dtype}\0{len(column)}\0".encode())
        while column.dtype == pl.List:
            _add(digest, column.is_null())
            _add(digest, column.list.len().fill_null(0))
            column = column.explode(empty_as_null=False)
        _add(digest, column.is_null())
        if column.dtype in (pl.Decimal, pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        elif column.dtype.is_temporal():
            column = column.to_physical()
        if column.dtype in (pl.String, pl.Binary):
            values = column.cast(pl.Binary).drop_nulls()
            _add(digest, values.bin.size())
            digest.update(b"".join(values.to_list()))
        elif column.dtype != pl.Null:
            _add(digest, column.drop_nulls())
    return digest.hexdigest()


def _add(digest: hashlib._Hash, values: pl.Series) -> None:
    digest.update(values.to_numpy().tobytes())
