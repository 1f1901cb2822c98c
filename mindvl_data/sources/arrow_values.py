"""Columns of Arrow whose texts are not UTF-8, as Python values: a bad text has surrogates for its bytes, whatever the
type that it stands in, so that the scan's rule for bad text finds it in one sample and its neighbours go on."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

# Stands for a value that no type below leads to: no text can hold it.
UNREADABLE = "\udcff"
TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def python_values(column: pa.Array) -> list[Any]:
    """What `column.to_pylist()` gives, also where a text in it is not UTF-8."""
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return _by_type(column)


def _by_type(column: pa.Array) -> list[Any]:
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return python_values(column.storage)
    if any(is_text(kind) for is_text in TEXTS):
        return [None if text is None else _text(text) for text in _bytes(column)]
    if pa.types.is_dictionary(kind):
        entries = python_values(column.dictionary)
        return [None if place is None else entries[place] for place in column.indices.to_pylist()]
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        rows = zip(*map(python_values, column.flatten()), strict=True)
        return _with_nulls(column, [dict(zip(names, row, strict=True)) for row in rows])
    if pa.types.is_map(kind):
        return _with_nulls(column, [[*zip(*_entries(entry), strict=True)] for entry in column])
    if any(is_list(kind) for is_list in LISTS):
        return _with_nulls(column, [python_values(entry.values) if entry.is_valid else None for entry in column])
    return [_one(column[i]) for i in range(len(column))]


def _bytes(column: pa.Array) -> list[bytes | None]:
    if pa.types.is_string_view(column.type):
        return column.cast(pa.binary_view()).to_pylist()  # type: ignore[no-any-return]
    return column.cast(pa.large_binary()).to_pylist()  # type: ignore[no-any-return]


def _entries(entry: pa.MapScalar) -> tuple[list[Any], list[Any]]:
    """Keys and values of one map."""
    pairs = entry.values
    return ([], []) if pairs is None else (python_values(pairs.field(0)), python_values(pairs.field(1)))


def _with_nulls(column: pa.Array, found: list[Any]) -> list[Any]:
    valid = column.is_valid().to_pylist()
    return [value if there else None for value, there in zip(found, valid, strict=True)]


def _one(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return UNREADABLE


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
