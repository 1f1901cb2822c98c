"""A few fields of an object are what `json` makes of them, whatever the bytes are."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.sources import Row, Unusable
from mindvl_data.sources.json_object import object_fields, whole_object

NAMES = ("text", "uid", "a b", "class", "_x")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), VALUES, max_size=6)
read = object_fields(NAMES)


def outcome(function: Callable[[bytes], Row], data: bytes) -> Any:
    try:
        row = function(data)
    except Unusable as error:
        return error.drop
    return {name: repr(row[name]) for name in NAMES if name in row}


@given(OBJECTS | VALUES, st.booleans(), st.integers(0, 200), st.binary(max_size=2), st.integers(0, 2))
@settings(max_examples=500, deadline=None)
def test_fields_are_those_that_json_reads(value: Any, ascii_only: bool, place: int, noise: bytes, cut: int) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    data = data[:place] + noise + data[place + cut :]
    assert outcome(read, data) == outcome(whole_object, data)


ODD = [
    b'{"uid": 18446744073709551616, "text": NaN, "x": -Infinity}',
    b'{"uid": 1, "uid": 2}',
    b'{"x": "\\ud800", "uid": "\\ud800\\udc00"}',
    b'{"x": "\xff", "uid": 1}',
    b'{"uid": "\xff"}',
    b'{"uid": "a\\u0000\t"}',
    b'{"uid": 1e999, "text": 9007199254740993.0}',
    b'\xef\xbb\xbf{"uid": 1}',
    b'{"x": ' + b"1" * 5000 + b"}",
    b'{"uid": 1, "x": ' + b"[" * 500 + b"]" * 500 + b"}",
    b'{"uid": 1, "x": ' + b"[" * 100_000,
    b"",
]


@pytest.mark.parametrize("data", ODD, ids=range(len(ODD)))
def test_what_parsers_differ_in_is_as_json_reads_it(data: bytes) -> None:
    assert outcome(read, data) == outcome(whole_object, data)
