"""Samples of several partitions as one row: whose they are, their ids, and the keys by which they are alike."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mindvl_data.pipeline.pool import Features, Pool, features, matches, pairs, pool_of
from mindvl_data.recipe.duplicates import Alike

# By partition, the text and the pictures of every row.
ROWS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("one", "x"), ("two", "y"), ("", "xy"), ("", "")),
    (),
    (("one", "y"), ("three", "x"), ("one", "x"), ("", "yx")),
)


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def partition(folder: Path, number: int) -> Any:
    rows = ROWS[number]
    images = [[{"sha256": digest(one)} for one in pictures] for _, pictures in rows]
    table = {
        "sample_id": pa.array([digest(f"{number}/{row}")[:16] for row in range(len(rows))], pa.binary(16)),
        "text_hash": pa.array([digest(text) for text, _ in rows], pa.binary(32)),
        "text_chars": pa.array([len(text) for text, _ in rows], pa.int32()),
        "images": pa.array(images, pa.list_(pa.struct({"sha256": pa.binary(32)}))),
    }
    path = folder / f"{number}.parquet"
    pq.write_table(pa.table(table), path)
    return SimpleNamespace(samples=path, version="1", source="ab"[number > 1])


@pytest.fixture
def partitions(tmp_path: Path) -> Sequence[Any]:
    return [partition(tmp_path, number) for number in range(3)]


def whole(partitions: Sequence[Any]) -> Pool:
    return pool_of(partitions, [np.ones(len(rows), bool) for rows in ROWS], ["a", "b"])


def exact(partitions: Sequence[Any], pool: Pool, each: bool = False, **rule: Any) -> Features:
    run: Any = SimpleNamespace(folder=lambda _: partitions[0].samples.parent)
    scores: Any = None
    return features(run, pool, partitions, scores, Alike.model_validate(rule), each)


def test_a_pool_holds_what_is_kept_in_the_order_of_the_partitions(partitions: Sequence[Any]) -> None:
    kept = [np.array([0, 1, 0, 1], bool), np.zeros(0, bool), np.array([1, 0, 0, 0], bool)]
    pool = pool_of(partitions, kept, ["b", "a"])
    assert (pool.partition.tolist(), pool.row.tolist(), pool.source.tolist()) == ([0, 0, 2], [1, 3, 0], [1, 1, 0])
    assert [pool.rows_of(number).tolist() for number in range(3)] == [[1, 3], [], [0]]


def test_ids_are_read_in_the_pools_order_whatever_it_is(partitions: Sequence[Any]) -> None:
    pool = whole(partitions).taken(np.array([6, 0, 4, 3]))
    expected = [digest(name)[:16] for name in ("2/2", "0/0", "2/0", "0/3")]
    assert [bytes(uid) for uid in pool.ids(partitions)] == expected


@pytest.mark.parametrize(
    ("rule", "owners", "alike"),
    [
        ({"by": "text"}, [0, 1, 4, 5, 6], {(0, 4), (4, 6)}),  # what has no text is compared with nothing
        ({"by": "image"}, [0, 1, 2, 4, 5, 6, 7], {(0, 5), (5, 6), (1, 4)}),  # pictures in another order differ
        ({"by": "sample"}, [0, 1, 2, 4, 5, 6, 7], {(0, 6)}),
    ],
)
def test_samples_are_paired_where_what_is_compared_is_equal(
    partitions: Sequence[Any], rule: dict[str, Any], owners: list[int], alike: set[tuple[int, int]]
) -> None:
    found = exact(partitions, whole(partitions), **rule)
    assert found.owner.tolist() == owners
    # Of several that are alike, each is paired with the next.
    left, right = pairs(Alike.model_validate(rule), found)
    assert {tuple(sorted(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)} == alike


def test_each_picture_has_a_key_of_its_own_where_one_is_enough(partitions: Sequence[Any]) -> None:
    found = exact(partitions, whole(partitions), each=True, by="image")
    assert found.owner.tolist() == [0, 1, 2, 2, 4, 5, 6, 7, 7]
    pool = whole(partitions)
    theirs, ours = pool.taken(np.array([0])), pool.taken(np.arange(1, len(pool)))
    rule = Alike.model_validate({"by": "image"})
    mine = exact(partitions, ours, each=True, by="image")
    left, _ = matches(rule, mine, exact(partitions, theirs, each=True, by="image"))
    # Every sample with the picture x, alone or among others; numbers are places in `ours`.
    assert set(left.tolist()) == {1, 4, 5, 6}


def test_the_version_depends_on_which_samples_are_compared(partitions: Sequence[Any]) -> None:
    pool = whole(partitions)
    versions = {exact(partitions, pool.taken(np.arange(end)), by="text").version for end in (8, 8, 7)}
    assert len(versions) == 2
