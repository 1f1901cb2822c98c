"""Many ranges at once: the bytes asked for, in the order asked for, in few reads."""

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.media import MediaError
from mindvl_data.steps.write import reads
from mindvl_data.steps.write.reads import RangeReader, Ranges, ahead, parts, plan, windows

FILES = {name: np.random.default_rng(i).bytes(200_000) for i, name in enumerate(["a.bin", "b.bin", "memory://c.bin"])}
ASKED = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 199_000), st.one_of(st.integers(0, 1000), st.integers(0, 100_000))).map(
        lambda r: (r[0], r[1], min(r[2], 200_000 - r[1]))
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("files")
    for name, data in FILES.items():
        if "://" in name:
            fsspec.filesystem("memory").pipe(name, data)
        else:
            (folder / name).write_bytes(data)
    yield folder
    fsspec.filesystem("memory").rm("/c.bin")


def ranges(asked: list[tuple[int, int, int]]) -> Ranges:
    columns = np.array(asked, np.int64).reshape(-1, 3).T
    return Ranges(list(FILES), *columns)


def reader(folder: Path) -> RangeReader:
    return RangeReader(lambda uri: uri if "://" in uri else str(folder / uri))


def read(reading: RangeReader, wanted: Ranges) -> list[bytes]:
    return [bytes(part) for part in parts(reading.read(wanted), wanted.size)]


@given(ASKED)
@settings(max_examples=60, deadline=None)
def test_every_range_comes_back_in_the_order_asked(folder: Path, asked: list[tuple[int, int, int]]) -> None:
    with reader(folder) as reading:
        found = read(reading, ranges(asked))
    names = list(FILES)
    assert found == [FILES[names[file]][at : at + size] for file, at, size in asked]


@given(ASKED, st.integers(0, 10_000))
def test_a_read_holds_one_file_and_no_wide_gap_and_no_range_twice(asked: list[tuple[int, int, int]], gap: int) -> None:
    wanted = ranges(asked)
    planned = plan(wanted, gap)
    rows = planned.rows
    distinct = wanted[rows]
    assert len({*asked}) == len(distinct)
    assert [asked[rows[number]] for number in planned.number] == asked
    for first, end in zip(planned.borders[:-1], planned.borders[1:], strict=True):
        assert len({*distinct.file[first:end]}) == 1
        ends = distinct.offset[first:end] + distinct.size[first:end]
        assert all(0 <= between <= gap for between in distinct.offset[first + 1 : end] - ends[:-1])


def test_neighbours_in_a_file_are_one_read_however_they_are_ordered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *arguments: calls.append(arguments) or preadv(*arguments))
    places = [(0, int(at), 100) for at in np.random.default_rng(0).permutation(1500) * 130]
    with reader(folder) as reading:
        found = read(reading, ranges(places))
    assert found == [FILES["a.bin"][at : at + 100] for _, at, _ in places]
    assert len(calls) == -(-1500 // (reads.MOST_BUFFERS // 2))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ((0, 199_990, 20), r"a\.bin \[199990, \+20\]: changed since it was scanned"),
        ((2, 199_990, 20), r"memory://c\.bin \[199990, \+20\]: changed since it was scanned"),
        ((3, 0, 1), r"none\.bin \[0, \+1\]: cannot be read"),
        ((4, 0, 1), r"memory://none\.bin \[0, \+1\]: no such file in the store"),
    ],
)
def test_what_is_not_there_is_named(folder: Path, asked: tuple[int, int, int], said: str) -> None:
    wanted = Ranges([*FILES, "none.bin", "memory://none.bin"], *np.array([asked], np.int64).T)
    with reader(folder) as reading, pytest.raises(MediaError, match=said):
        reading.read(wanted)


def test_more_files_than_may_be_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "OPEN_FILES", 2)
    names = [f"{number}.bin" for number in range(9)]
    for name in names:
        (tmp_path / name).write_text(name)
    numbers = np.array([8, 0, 3, 3, 1, 7, 2, 6, 5, 4])
    wanted = Ranges(names, numbers, np.zeros(10, np.int64), np.full(10, 5))
    with reader(tmp_path) as reading:
        assert read(reading, wanted) == [f"{n}.bin".encode() for n in numbers]


def test_what_was_read_stays_as_it_is_as_long_as_a_part_of_it_is_kept(folder: Path) -> None:
    """Buffers are used again, and the kept parts outlive several reads."""
    rng = np.random.default_rng(0)
    kept: list[tuple[memoryview, bytes]] = []
    with reader(folder) as reading:
        for _ in range(50):
            at, size = int(rng.integers(0, 100_000)), int(rng.integers(1, 5_000))
            whole = reading.read(ranges([(0, at, size)]))
            kept = [one for one in kept if rng.random() < 0.7] + [
                (whole[size // 2 :], FILES["a.bin"][at:][:size][size // 2 :])
            ]
            del whole
            assert all(part == expected for part, expected in kept)


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 100))
def test_windows_cover_everything_within_their_size(sizes: list[int], most: int) -> None:
    found = windows(np.array(sizes, np.int64), most)
    assert [i for first, end in found for i in range(first, end)] == list(range(len(sizes)))
    assert all(end - first == 1 or sum(sizes[first:end]) <= most for first, end in found)


def test_what_is_ahead_comes_in_order_and_fails_where_it_is_asked_for() -> None:
    assert list(ahead(lambda x: x * 2, range(10))) == list(range(0, 20, 2))
    results = ahead(lambda x: 1 // x, [1, 0])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
