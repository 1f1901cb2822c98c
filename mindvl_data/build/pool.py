"""Samples of many partitions as one row of columns, and what two of them are compared by."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data import fingerprints
from mindvl_data.build.run import Run
from mindvl_data.build.scanning import Partition
from mindvl_data.build.scoring import Scores
from mindvl_data.dedup import Pairs, Pictures, image_keys, near_pictures, near_texts, same, same_as
from mindvl_data.recipe.duplicates import Alike
from mindvl_data.scores.minhash import PERMUTATIONS
from mindvl_data.store import starts_of

SCORE = {"image": "image_hash", "text": "text_minhash"}


@dataclass(frozen=True)
class Pool:
    """n samples: the number of their partition and their row in it, int32 [n]; their source's number, int16 [n]."""

    partition: NDArray[np.int32]
    row: NDArray[np.int32]
    source: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.row)

    def taken(self, rows: NDArray[Any]) -> Pool:
        return Pool(self.partition[rows], self.row[rows], self.source[rows])

    def rows_of(self, number: int) -> NDArray[np.int32]:
        """The rows of one partition; a pool's samples lie in the order of their partitions."""
        first, end = np.searchsorted(self.partition, [number, number + 1])
        return self.row[first:end]

    def ids(self, partitions: Sequence[Partition]) -> NDArray[np.uint8]:
        """Sample ids, uint8 [n, 16]."""
        found = np.zeros((len(self), 16), np.uint8)
        order = np.argsort(self.partition, kind="stable")
        ends = np.searchsorted(self.partition[order], np.arange(len(partitions) + 1))
        for number, partition in enumerate(partitions):
            places = order[ends[number] : ends[number + 1]]
            if len(places):
                column = pq.read_table(partition.samples, columns=["sample_id"]).column("sample_id")
                found[places] = _fixed(column.combine_chunks())[self.row[places]]
        return found


def pool_of(partitions: Sequence[Partition], kept: Sequence[NDArray[np.bool_]], sources: Sequence[str]) -> Pool:
    """The kept samples of all partitions."""
    rows = [np.flatnonzero(mask).astype(np.int32) for mask in kept]
    counts = [len(some) for some in rows]
    return Pool(
        np.repeat(np.arange(len(rows), dtype=np.int32), counts),
        np.concatenate([np.zeros(0, np.int32), *rows]),
        np.repeat(np.array([sources.index(p.source) for p in partitions], np.int16), counts),
    )


@dataclass(frozen=True)
class Features:
    """What samples are compared by. has: bool [n], those that can be alike to any. values: of those alone, exact
    keys (uint64 [m, 2]), Pictures or signatures (uint32 [m, 128]).

    version: what it all depends on.
    """

    has: NDArray[np.bool_]
    values: Any
    version: str


def features(run: Run, pool: Pool, partitions: Sequence[Partition], scores: Scores, rule: Alike) -> Features:
    """The keys, hashes or signatures that a rule compares, of a pool's samples."""
    involved = [bool(len(pool.rows_of(i))) for i in range(len(partitions))]
    rows = [fingerprints.of_bytes(pool.rows_of(i).tobytes()) for i in range(len(partitions))]
    version = fingerprints.key([(p.samples.name, p.version, mine) for p, mine in zip(partitions, rows, strict=True)])
    if rule.near is None:
        keys = [_exact(p, pool.rows_of(i), rule.by) for i, p in enumerate(partitions) if involved[i]]
        has = np.concatenate([np.zeros(0, bool), *(some for some, _ in keys)])
        return Features(has, np.concatenate([np.zeros((0, 2), np.uint64), *(some for _, some in keys)]), version)
    files = scores.files([{SCORE[rule.by]} if some else set() for some in involved])
    columns = [
        pl.read_parquet(paths[0])[SCORE[rule.by]].gather(pool.rows_of(i)) for i, paths in enumerate(files) if paths
    ]
    version = fingerprints.key(version, [path.name for paths in files for path in paths])
    return _pictures(columns, version) if rule.by == "image" else _signatures(run.out, columns, version)


def pairs(rule: Alike, found: Features) -> Pairs:
    """Pairs of a pool's samples that are alike: numbers of their places in it."""
    places = np.flatnonzero(found.has)
    if rule.near is None:
        left, right = same(found.values)
    elif isinstance(found.values, Pictures):
        left, right = near_pictures(found.values, int(rule.near))
    else:
        left, right = near_texts(found.values, rule.near)
    return places[left], places[right]


def matches(rule: Alike, ours: Features, theirs: Features) -> Pairs:
    """Pairs of a sample of one pool and one of another that are alike."""
    here, there = np.flatnonzero(ours.has), np.flatnonzero(theirs.has)
    if rule.near is None:
        found = same_as(ours.values, theirs.values)
        left = np.flatnonzero(found >= 0)
        right = found[left]
    elif isinstance(ours.values, Pictures):
        left, right = near_pictures(ours.values, int(rule.near), theirs.values)
    else:
        left, right = near_texts(ours.values, rule.near, theirs.values)
    return here[left], there[right]


def _exact(partition: Partition, rows: NDArray[np.int32], by: str) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Which of the rows have images (a text), and the 128-bit key of each that has."""
    if by == "text":
        table = pq.read_table(partition.samples, columns=["text_hash", "text_chars"])
        hashes = np.ascontiguousarray(_fixed(table.column("text_hash").combine_chunks())[rows]).view("<u8")
        has = table.column("text_chars").to_numpy()[rows] > 0
        return has, hashes[has, :2]
    images = pq.read_table(partition.samples, columns=["images"]).column("images").combine_chunks()
    digests = _fixed(images.flatten().field("sha256"))
    counts = images.value_lengths().to_numpy(zero_copy_only=False)
    has = counts[rows] > 0
    return has, image_keys(digests, starts_of(counts))[rows[has]]


def _fixed(column: pa.FixedSizeBinaryArray) -> NDArray[np.uint8]:
    """Values of one size as they lie in memory, uint8 [n, size]; none may be null."""
    size = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1], np.uint8)
    return flat[column.offset * size : (column.offset + len(column)) * size].reshape(-1, size)


def _pictures(columns: Sequence[pl.Series], version: str) -> Features:
    hashes = pl.concat([pl.Series([], dtype=pl.List(pl.UInt64)), *columns])
    # One picture that does not decode, and the sample cannot be compared.
    has = (hashes.list.len() > 0) & ~hashes.list.eval(pl.element().is_null()).list.any()
    sound = hashes.filter(has)
    counts = sound.list.len().to_numpy().astype(np.int64)
    flat = sound.explode(empty_as_null=False).to_numpy().astype(np.uint64)
    return Features(has.to_numpy(), Pictures(flat, starts_of(counts)), version)


def _signatures(folder: Path, columns: Sequence[pl.Series], version: str) -> Features:
    """Signatures in a file that is gone with them: those of ten million samples fit no memory."""
    has = np.concatenate([np.zeros(0, bool), *(column.is_not_null().to_numpy() for column in columns)])
    count = int(has.sum())
    with tempfile.TemporaryFile(dir=folder) as file:
        values = np.memmap(file, np.uint32, "w+", shape=(max(1, count), PERMUTATIONS))
    start = 0
    for column in columns:
        known = column.drop_nulls()
        flat = np.frombuffer(b"".join(known.to_list()), np.uint32).reshape(-1, PERMUTATIONS)
        values[start : start + len(flat)] = flat
        start += len(flat)
    return Features(has, values[:count], version)
