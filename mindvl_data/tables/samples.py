"""The samples table and the ledger's lines while they are put together: columns, never an object a line."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.errors import UserError
from mindvl_data.tables.schema import IMAGES, LEDGER, PARTS, SAMPLES, SAMPLES_INDEX, Drop, Part, sample_ids
from mindvl_data.tables.videos import VideoLine

# They stand for bytes that are not UTF-8, and are what a lone \ud800 in JSON makes: no text can hold them.
SURROGATES = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Text that can be written: what is not UTF-8 replaced."""
    return SURROGATES.sub("\ufffd", text) if not text.isascii() else text


class ImageLine(NamedTuple):
    """One entry of schema.IMAGES."""

    uri: str
    offset: int
    size: int
    width: int
    height: int
    format: str
    sha256: bytes | None


class Measured(NamedTuple):
    """What a line of the samples table is made of, but for its name. videos: which of its images are clips."""

    uid: str | None
    data: Mapping[str, Any]
    parts: Sequence[Part]
    images: Sequence[ImageLine]
    text_chars: int
    replaced: int
    text_hash: bytes
    videos: Sequence[tuple[int, VideoLine]] = ()


@dataclass
class Lost:
    """Ledger lines of the scan."""

    keys: list[str] = field(default_factory=list)
    drops: list[Drop] = field(default_factory=list)

    def add(self, key: str, drop: Drop) -> None:
        self.keys.append(key)
        self.drops.append(drop)

    def table(self, source: str, path: str, uri: str) -> pa.RecordBatch:
        count = len(self.keys)
        columns = (
            sample_ids(source, path, self.keys),
            [source] * count,
            [f"{uri}#{clean(key)}" for key in self.keys],
            ["scan"] * count,
            [drop.reason for drop in self.drops],
            [clean(drop.detail) for drop in self.drops],
        )
        return pa.RecordBatch.from_arrays(_arrays(columns, LEDGER.types), schema=LEDGER)


@dataclass
class Kept:
    """Lines of the samples table."""

    keys: list[str] = field(default_factory=list)
    samples: list[Measured] = field(default_factory=list)

    def add(self, key: str, sample: Measured) -> None:
        self.keys.append(key)
        self.samples.append(sample)

    def table(self, source: str, path: str) -> pa.RecordBatch:
        count = len(self.keys)
        uids, _, parts, images, chars, replaced, hashes, _ = zip(*self.samples, strict=True) if count else [()] * 8
        _, image_starts = _owners(images)
        of_part, part_starts = _owners(parts)
        image_table = _struct(images, IMAGES.value_type)
        part_table = _struct(parts, PARTS.value_type)
        columns = {
            "sample_id": sample_ids(source, path, self.keys),
            "key": [clean(key) for key in self.keys],
            "uid": uids,
            "num_turns": _distinct(of_part, part_table.field("turn").to_numpy(), count),
            "text_chars": chars,
            "replaced": replaced,
            "num_images": np.diff(image_starts),
            **_sizes(image_table, image_starts),
            "text_hash": hashes,
        }
        names = [name for name in SAMPLES.names if name not in ("images", "parts")]
        arrays = _arrays([columns[name] for name in names], SAMPLES.types)
        arrays.append(pa.ListArray.from_arrays(pa.array(image_starts, pa.int32()), image_table, type=IMAGES))
        arrays.append(pa.ListArray.from_arrays(pa.array(part_starts, pa.int32()), part_table, type=PARTS))
        return pa.RecordBatch.from_arrays(arrays, schema=SAMPLES)

    def data_table(self, names: Sequence[str]) -> pa.Table:
        """The fields of the data that filters name."""
        columns = [[sample.data.get(name) for sample in self.samples] for name in names]
        return pa.table([_values(column) for column in columns], list(names))


def _owners(items: Sequence[Sequence[Any]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For lists in a row: which list each entry is of, and where the lists begin, and the end."""
    lengths = np.fromiter(map(len, items), np.int64, len(items))
    return np.repeat(np.arange(len(items)), lengths), np.concatenate([[0], np.cumsum(lengths)])


def _distinct(owner: NDArray[np.int64], values: NDArray[np.int16], count: int) -> NDArray[np.int64]:
    """How many different values each of `count` owners has."""
    pairs = np.unique(owner << 16 | values)
    return np.bincount(pairs >> 16, minlength=count)


def _sizes(images: pa.StructArray, starts: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Least width and height, largest aspect, pixels and bytes over the images of each sample; null without images."""
    width, height, size = (images.field(name).to_numpy().astype(np.int64) for name in ("width", "height", "size"))
    none = np.diff(starts) == 0
    first = starts[:-1][~none]
    columns: dict[str, tuple[np.ufunc, NDArray[Any]]] = {
        "width": (np.minimum, width),
        "height": (np.minimum, height),
        "aspect": (np.maximum, np.maximum(width, height) / np.minimum(width, height)),
        "pixels": (np.add, width * height),
        "image_bytes": (np.add, size),
    }
    return {name: _reduced(over, values, first, none) for name, (over, values) in columns.items()}


def _reduced(over: np.ufunc, values: NDArray[Any], first: NDArray[np.int64], none: NDArray[np.bool_]) -> pa.Array:
    found = np.zeros(len(none), values.dtype)
    if len(first):
        found[~none] = over.reduceat(values, first)
    return pa.array(found, mask=none)


def _arrays(columns: Any, kinds: Sequence[pa.DataType]) -> list[pa.Array]:
    return [
        column.cast(kind) if isinstance(column, pa.Array) else pa.array(column, kind)
        for column, kind in zip(columns, kinds, strict=False)
    ]


def _struct(items: Sequence[Sequence[tuple[Any, ...]]], kind: pa.StructType) -> pa.StructArray:
    """The entries of all lists in a row."""
    fields = list(kind)
    flat = [*itertools.chain.from_iterable(items)]
    columns = zip(*flat, strict=True) if flat else [()] * len(fields)
    return pa.StructArray.from_arrays(_arrays(columns, [field.type for field in fields]), fields=fields)


def _values(values: list[Any]) -> pa.Array:
    values = [clean(value) if isinstance(value, str) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return _as_text(values)


def _as_text(values: list[Any]) -> pa.Array:
    # A NaN, which is not equal to itself, is a missing value.
    return pa.array([None if value is None or value != value else str(value) for value in values], pa.string())


def joined(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """The data's own columns of all batches: a kind of number that holds them all, text where they are mixed."""
    if not tables:
        return pa.table({name: pa.nulls(0) for name in names})
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        texts = [[_as_text(column.to_pylist()) for column in table.columns] for table in tables]
        return pa.concat_tables([pa.table(columns, list(names)) for columns in texts])


class NoSamplesError(UserError):
    """A build folder that does not say which samples tables are its last build's; the message names the file."""


def tables_of(build: Path) -> list[dict[str, Any]]:
    """Which tables the last build used, as it noted them: each with its source, file, scores and rewritten texts.

    The folder may come from anybody: names that are not those of files in it are refused. Raises NoSamplesError.
    """
    index = build / "samples" / SAMPLES_INDEX
    try:
        tables = json.loads(index.read_text(encoding="utf-8"))
        names = [name for table in tables for name in (table["samples"], table["rewritten"], *table["scores"])]
        if strange := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
            raise ValueError(f"{strange[0]!r} is no file of its folder")
        if not all(isinstance(table[name], str) for table in tables for name in ("source", "file")):
            raise ValueError("a source or file is no text")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NoSamplesError(
            f"{index}: cannot be read ({error}); this needs the build folder as it was built"
        ) from error
    return list(tables)
