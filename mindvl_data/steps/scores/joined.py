"""Columns of Parquet files from elsewhere, joined by a key in bounded memory.

The files are read once, into an index: rows in buckets by a hash of their key, each bucket sorted by it and
memory-mapped. A partition's samples are then looked up by bisection. Buckets are as many as keep one small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.errors import reading
from mindvl_data.runtime import seals
from mindvl_data.sources.files import store_of
from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.columns import write_columns
from mindvl_data.steps.scores.keys import hashes_of

BATCH_ROWS = 1 << 16
BUCKET_ROWS = 1 << 20
HASHES = [("high", pa.uint64()), ("low", pa.uint64())]
KEY = "\0key"


@dataclass(frozen=True)
class IndexTask:
    """Files (as the recipe shows them, and where they are), the column of keys, the columns to take, the folder."""

    score: str
    files: tuple[tuple[str, str], ...]
    key: str
    columns: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class LookUpTask:
    """A partition's samples table, by which of its columns, in which index, and the file for the columns."""

    samples: Path
    on: str
    index: Path
    out: Path


def index(task: IndexTask) -> None:
    """Write the folder of buckets, which appears whole. Raises ScoreError for a key that stands there twice."""
    with seals.sealed(task.folder) as partial:
        partial.mkdir(parents=True)
        try:
            _write_buckets(task, partial)
        except (pa.ArrowException, OSError) as error:
            raise ScoreError(f"scores.{task.score}: {error}") from error


def _write_buckets(task: IndexTask, folder: Path) -> None:
    schema, rows = _schema(task)
    bits = max(0, (rows // BUCKET_ROWS).bit_length())
    with ExitStack() as stack:
        writers = [
            stack.enter_context(pa.ipc.new_file(folder / f"{bucket:05d}.rows", schema)) for bucket in range(1 << bits)
        ]
        for batch in _rows(task, schema):
            _spread(batch, writers, bits)
    for path in sorted(folder.glob("*.rows")):
        _sort(task, path)


def look_up(task: LookUpTask) -> None:
    """Write `task.out`: for every sample the values of its key, null where the index has it not."""
    names = _names(task)
    known = names.is_not_null().to_numpy()
    high, low = hashes_of(names.drop_nulls())
    rows = np.flatnonzero(known)
    buckets = sorted(task.index.glob("*.arrow"))
    bucket = _bucket(high, len(buckets).bit_length() - 1)
    order, tables = [], []
    for number, path in enumerate(buckets):
        mine = np.flatnonzero(bucket == number)
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
            place = _found(table, high[mine], low[mine])
            tables.append(table.drop_columns(["high", "low"]).take(pa.array(place, mask=place < 0)))
        order.append(rows[mine])
    unnamed = np.flatnonzero(~known)
    tables.append(tables[0].slice(0, 0).take(pa.nulls(len(unnamed), pa.int64())))
    where = np.argsort(np.concatenate([*order, unnamed]), kind="stable")
    joined = pa.concat_tables(tables).take(pa.array(where))
    write_columns(pl.DataFrame(joined), task.out)


def check_unique(score: str, tables: Sequence[tuple[str, Path]]) -> None:
    """Raises ScoreError when two samples of these tables (each with its file) have one key."""
    found = [hashes_of(pl.read_parquet(path, columns=["key"])["key"])[0] for _, path in tables]
    together = np.concatenate([np.zeros(0, np.uint64), *found])
    order = np.argsort(together, kind="stable")
    same = np.flatnonzero(together[order[1:]] == together[order[:-1]])
    if len(same):
        ends = np.cumsum([len(hashes) for hashes in found])
        one, other = (tables[int(np.searchsorted(ends, order[same[0] + i], "right"))][0] for i in (0, 1))
        raise ScoreError(
            f"scores.{score}.on: two samples have one key, the first in {one} and {other}; join on uid or sample_id"
        )


def _names(task: LookUpTask) -> pl.Series:
    names = pl.read_parquet(task.samples, columns=[task.on])[task.on]
    return pl.Series(names.cast(pl.Binary).bin.encode("hex")) if task.on == "sample_id" else names


def _schema(task: IndexTask) -> tuple[pa.Schema, int]:
    """The rows' schema, with types that hold the values of every file, and how many rows there are in all."""
    found: dict[str, dict[pa.DataType, list[str]]] = {ours: {} for ours in task.columns}
    rows = 0
    for shown, place in task.files:
        fs, path = store_of(place)
        with reading(f"scores.{task.score}: {shown}", "a Parquet file", ScoreError), fs.open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            known = parquet.schema_arrow
            if missing := [name for name in (task.key, *task.columns.values()) if name not in known.names]:
                there = ", ".join(known.names)
                raise ScoreError(f"scores.{task.score}: {shown} has no column {missing[0]!r}; there are: {there}")
            for ours, theirs in task.columns.items():
                found[ours].setdefault(known.field(theirs).type, []).append(shown)
            rows += parquet.metadata.num_rows
    fields = [(ours, _one_type(task, ours, files)) for ours, files in found.items()]
    return pa.schema([*HASHES, (KEY, pa.large_string()), *fields]), rows


def _one_type(task: IndexTask, name: str, files: Mapping[pa.DataType, Sequence[str]]) -> pa.DataType:
    """The type that holds a column's values in every file. Raises ScoreError where there is none."""
    try:
        schemas = [pa.schema([(name, kind)]) for kind in files]
        return pa.unify_schemas(schemas, promote_options="permissive").field(name).type
    except pa.ArrowException as error:
        said = "; ".join(f"{kind} in {len(shown):,} (the first: {shown[0]})" for kind, shown in files.items())
        raise ScoreError(
            f"scores.{task.score}: {task.columns[name]!r} has no one type over its files: {said}. "
            "Write those files anew with one"
        ) from error


def _rows(task: IndexTask, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for shown, place in task.files:
        fs, path = store_of(place)
        with reading(f"scores.{task.score}: {shown}", "a Parquet file", ScoreError), fs.open(path, "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=[task.key, *task.columns.values()]):
                key = batch.column(task.key)
                batch = batch.filter(key.is_valid())
                names = batch.column(task.key).cast(pa.large_string())
                high, low = hashes_of(pl.Series(names))
                columns = [batch.column(theirs) for theirs in task.columns.values()]
                arrays = [pa.array(high), pa.array(low), names, *columns]
                cast = [array.cast(field.type) for array, field in zip(arrays, schema, strict=True)]
                yield pa.RecordBatch.from_arrays(cast, schema=schema)


def _spread(batch: pa.RecordBatch, writers: Sequence[pa.RecordBatchFileWriter], bits: int) -> None:
    bucket = _bucket(batch.column("high").to_numpy(), bits)
    order = np.argsort(bucket, kind="stable")
    ends = np.searchsorted(bucket[order], np.arange(len(writers) + 1))
    ordered = batch.take(pa.array(order))
    for number, writer in enumerate(writers):
        if ends[number] < ends[number + 1]:
            writer.write_batch(ordered.slice(ends[number], ends[number + 1] - ends[number]))


def _sort(task: IndexTask, path: Path) -> None:
    table = pa.ipc.open_file(path).read_all()
    high, low = (table.column(name).to_numpy() for name, _ in HASHES)
    order = np.lexsort((low, high))
    same = np.flatnonzero((high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]]))
    if len(same):
        key = table.column(KEY)[int(order[same[0]])].as_py()
        raise ScoreError(
            f"scores.{task.score}.path: the {task.key} {key!r} stands there more than once (and {len(same) - 1:,} "
            "more do): which values are meant? Leave one line a key"
        )
    table = table.drop_columns([KEY]).take(pa.array(order)).combine_chunks()
    with pa.ipc.new_file(path.with_suffix(".arrow"), table.schema) as writer:
        writer.write_table(table)
    path.unlink()


def _bucket(high: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    return high >> np.uint64(64 - bits) if bits else np.zeros(len(high), np.uint64)


def _found(table: pa.Table, high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The row of each pair of hashes in a sorted bucket, int64; -1 where it has none."""
    if not len(table):
        return np.full(len(high), -1)
    highs, lows = (table.column(name).to_numpy() for name, _ in HASHES)
    place = np.searchsorted(highs, high)
    end = len(highs) - 1
    # Two keys may agree in 64 bits; they lie side by side.
    while np.any(on := (highs[np.minimum(place, end)] == high) & (lows[np.minimum(place, end)] < low) & (place <= end)):
        place = place + on
    clipped = np.minimum(place, end)
    hit = (highs[clipped] == high) & (lows[clipped] == low) & (place <= end)
    return np.where(hit, clipped, -1)
