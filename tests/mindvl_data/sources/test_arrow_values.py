"""Texts that are not UTF-8 in every Arrow type: the value beside is what it was, the bad one has surrogates."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.sources.arrow_values import python_values

STRINGS = [pa.string(), pa.large_string(), pa.string_view()]


def strings(data: list[bytes | None], kind: pa.DataType) -> pa.Array:
    """An array of texts from bytes that nobody has looked at."""
    if kind == pa.string_view():
        return pa.array(data, pa.binary_view()).view(kind)
    return pa.array(data, pa.binary() if kind == pa.string() else pa.large_binary()).view(kind)


def as_text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "surrogateescape")


def nested(flat: pa.Array, texts: list[str | None]) -> list[tuple[pa.Array, list[Any]]]:
    """The same texts in every type that holds others, with what they are in Python. An even number of texts."""
    count = len(texts)
    firsts = range(0, count, 2)
    offsets = pa.array(range(0, count + 1, 2), pa.int32())
    pairs = [texts[i : i + 2] for i in firsts]
    indices = pa.array([*range(count - 1, -1, -1), None], pa.int32())
    keys = pa.array([f"key {i}" for i in range(count)])
    maps = [[(f"key {i}", texts[i]), (f"key {i + 1}", texts[i + 1])] for i in firsts]
    numbers = pa.array(range(count))
    return [
        (pa.DictionaryArray.from_arrays(indices, flat), [*texts[::-1], None]),
        (pa.ListArray.from_arrays(offsets, flat), pairs),
        (pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), flat), pairs),
        (pa.FixedSizeListArray.from_arrays(flat, 2), pairs),
        (pa.ListViewArray.from_arrays(offsets[:-1], pa.array([2] * (count // 2), pa.int32()), flat), pairs),
        (pa.StructArray.from_arrays([numbers, flat], ["n", "t"]), [{"n": n, "t": t} for n, t in enumerate(texts)]),
        (pa.MapArray.from_arrays(offsets, keys, flat), maps),
    ]


@settings(deadline=None)
@given(st.lists(st.none() | st.binary(max_size=20), min_size=1, max_size=4), st.sampled_from(STRINGS))
def test_a_text_that_is_not_utf8_is_one_value_in_every_type(data: list[bytes | None], kind: pa.DataType) -> None:
    data = [*data, b"\xff bad", *([None] if len(data) % 2 == 0 else [])]
    flat, texts = strings(data, kind), [as_text(text) for text in data]
    assert python_values(flat) == texts
    for column, expected in nested(flat, texts):
        assert python_values(column) == expected, column.type
        assert python_values(column[1:]) == expected[1:], "a part of it"
        outer = pa.StructArray.from_arrays([column], ["inner"], mask=pa.array([True] + [False] * (len(column) - 1)))
        assert python_values(outer) == [None, *({"inner": value} for value in expected[1:])]


@pytest.mark.parametrize("column", [pa.array([1, None]), pa.array([["a"], None]), pa.array([{"a": b"\xff"}])])
def test_what_is_sound_is_what_arrow_says(column: pa.Array) -> None:
    assert python_values(column) == column.to_pylist()
