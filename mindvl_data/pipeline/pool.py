"""Samples of many partitions as one row of columns, and what two of them are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.runtime import fingerprints, seals
from mindvl_data.steps.dedup import Pairs, Pictures, image_keys, near_pictures, near_texts, same, same_as
from mindvl_data.steps.scores.minhash import PERMUTATIONS
from mindvl_data.tables.columns import SpilledColumn
from mindvl_data.tables.store import starts_of

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run
    from mindvl_data.pipeline.scanning import Partition
    from mindvl_data.pipeline.scoring import Scores
    from mindvl_data.recipe.duplicates import Alike

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
    """What samples are compared by. values: exact keys (uint64 [m, 2]), Pictures or signatures (uint32 [m, 128]); keys
    and signatures lie in a file.

    owner: int64 [m], the place in the pool of the sample that each value is of. version: what it all depends on.
    """

    owner: NDArray[np.int64]
    values: Any
    version: str


def features(
    run: Run, pool: Pool, partitions: Sequence[Partition], scores: Scores, rule: Alike, each: bool = False
) -> Features:
    """The keys, hashes or signatures that a rule compares, of a pool's samples.

    each: by image, a value for every image, in the place of one for all images of a sample.
    """
    rows = [pool.rows_of(i) for i in range(len(partitions))]
    hashes = [fingerprints.of_bytes(mine.tobytes()) for mine in rows]
    version = fingerprints.key([(p.samples.name, p.version, mine) for p, mine in zip(partitions, hashes, strict=True)])
    if rule.near is None:
        folder = run.folder("samples")
        owner, values = SpilledColumn(folder, np.int64), SpilledColumn(folder, np.uint64, 2)
        for partition, mine, start in zip(partitions, rows, starts_of(np.array([*map(len, rows)])), strict=False):
            if len(mine):
                of, keys = _exact(partition, mine, rule.by, each)
                owner.append(start + of)
                values.append(keys)
        return Features(owner.values(), values.values(), version)
    files = scores.files([{SCORE[rule.by]} if len(mine) else set() for mine in rows])
    columns = [
        pl.read_parquet(seals.checked(paths[0]))[SCORE[rule.by]].gather(mine)
        for paths, mine in zip(files, rows, strict=True)
        if paths
    ]
    version = fingerprints.key(version, [path.name for paths in files for path in paths])
    return _pictures(columns, each, version) if rule.by == "image" else _signatures(run.out, columns, version)


def pairs(rule: Alike, found: Features) -> Pairs:
    """Pairs of a pool's samples that are alike: numbers of their places in it."""
    if rule.near is None:
        left, right = same(found.values)
    elif isinstance(found.values, Pictures):
        left, right = near_pictures(found.values, int(rule.near))
    else:
        left, right = near_texts(found.values, rule.near)
    return found.owner[left], found.owner[right]


def matches(rule: Alike, ours: Features, theirs: Features) -> Pairs:
    """Pairs of a sample of one pool and one of another that are alike: enough to name every sample that is."""
    if rule.near is None:
        there, here = same_as(ours.values, theirs.values), same_as(theirs.values, ours.values)
        left = np.concatenate([np.flatnonzero(there >= 0), here[here >= 0]])
        right = np.concatenate([there[there >= 0], np.flatnonzero(here >= 0)])
    elif isinstance(ours.values, Pictures):
        left, right = near_pictures(ours.values, int(rule.near), theirs.values)
    else:
        left, right = near_texts(ours.values, rule.near, theirs.values)
    return ours.owner[left], theirs.owner[right]


def _exact(
    partition: Partition, rows: NDArray[np.int32], by: str, each: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """128-bit keys of what a rule compares, of those rows that have any of it; and of which row each is.

    each: by image, a key an image in the place of one for all of a row. By sample, images and texts are one key.
    """
    if by == "sample":
        (with_text, texts), (with_images, images) = (_exact(partition, rows, one, False) for one in ("text", "image"))
        keys = np.zeros((len(rows), 2), np.uint64)
        keys[with_text] = texts
        keys[with_images] ^= np.stack([hashed(images[:, i], i, "sample") for i in (0, 1)], axis=1)
        owner = np.union1d(with_text, with_images)
        return owner, keys[owner]
    if by == "text":
        table = pq.read_table(partition.samples, columns=["text_hash", "text_chars"])
        hashes = np.ascontiguousarray(_fixed(table.column("text_hash").combine_chunks())[rows]).view("<u8")
        owner = np.flatnonzero(table.column("text_chars").to_numpy()[rows] > 0)
        return owner, hashes[owner, :2]
    images = pq.read_table(partition.samples, columns=["images"]).column("images").combine_chunks()
    digests = _fixed(images.flatten().field("sha256"))
    counts = images.value_lengths().to_numpy(zero_copy_only=False)
    starts, mine = starts_of(counts), counts[rows]
    if not each:
        owner = np.flatnonzero(mine > 0)
        return owner, image_keys(digests, starts)[rows[owner]]
    owner = np.repeat(np.arange(len(rows)), mine)
    place = starts[rows][owner] + np.arange(len(owner)) - starts_of(mine)[owner]
    return owner, image_keys(digests, np.arange(len(digests) + 1))[place]


def _fixed(column: pa.FixedSizeBinaryArray) -> NDArray[np.uint8]:
    """Values of one size as they lie in memory, uint8 [n, size]; none may be null."""
    size = column.type.byte_width
    flat = np.frombuffer(column.buffers()[1], np.uint8)
    return flat[column.offset * size : (column.offset + len(column)) * size].reshape(-1, size)


def _pictures(columns: Sequence[pl.Series], each: bool, version: str) -> Features:
    hashes = pl.concat([pl.Series([], dtype=pl.List(pl.UInt64)), *columns])
    if each:
        hashes = hashes.list.drop_nulls()
    # One picture that does not decode, and all together cannot be compared.
    has = (hashes.list.len() > 0) & ~hashes.list.eval(pl.element().is_null()).list.any()
    sound = hashes.filter(has)
    counts = sound.list.len().to_numpy().astype(np.int64)
    flat = sound.explode(empty_as_null=False).to_numpy().astype(np.uint64)
    owner = np.flatnonzero(has.to_numpy())
    if each:
        return Features(np.repeat(owner, counts), Pictures(flat, np.arange(len(flat) + 1)), version)
    return Features(owner, Pictures(flat, starts_of(counts)), version)


def _signatures(folder: Path, columns: Sequence[pl.Series], version: str) -> Features:
    """Signatures in a file: those of ten million samples fit no memory."""
    has = np.concatenate([np.zeros(0, bool), *(column.is_not_null().to_numpy() for column in columns)])
    values = SpilledColumn(folder, np.uint32, PERMUTATIONS)
    for column in columns:
        known = b"".join(column.drop_nulls().to_list())
        values.append(np.frombuffer(known, np.uint32).reshape(-1, PERMUTATIONS))
    return Features(np.flatnonzero(has), values.values(), version)
