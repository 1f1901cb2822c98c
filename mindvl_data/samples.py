"""The samples table and the ledger's lines while they are put together: columns, never an object a line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from mindvl_data.schema import IMAGES, LEDGER, PARTS, SAMPLES, Drop, Part

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
    """What a line of the samples table is made of, but for its name."""

    uid: str | None
    data: Mapping[str, Any]
    parts: Sequence[Part]
    images: Sequence[ImageLine]
    text_chars: int
    replaced: int
    text_hash: bytes


@dataclass
class Lost:
    """Ledger lines of the scan."""

    ids: list[bytes] = field(default_factory=list)
    locators: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def add(self, uid: bytes, locator: str, drop: Drop) -> None:
        self.ids.append(uid)
        self.locators.append(locator)
        self.reasons.append(drop.reason)
        self.details.append(clean(drop.detail))

    def table(self, source: str) -> pa.RecordBatch:
        count = len(self.ids)
        columns = (self.ids, [source] * count, self.locators, ["scan"] * count, self.reasons, self.details)
        return pa.RecordBatch.from_arrays(_arrays(columns, LEDGER.types), schema=LEDGER)


@dataclass
class Kept:
    """Lines of the samples table."""

    ids: list[bytes] = field(default_factory=list)
    lines: list[tuple[Any, ...]] = field(default_factory=list)
    images: list[ImageLine] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    image_starts: list[int] = field(default_factory=lambda: [0])
    part_starts: list[int] = field(default_factory=lambda: [0])
    data: list[Mapping[str, Any]] = field(default_factory=list)

    def add(self, uid: bytes, key: str, sample: Measured) -> None:
        images = sample.images
        self.ids.append(uid)
        self.lines.append(
            (
                key,
                sample.uid,
                len({part.turn for part in sample.parts}) if len(sample.parts) > 1 else len(sample.parts),
                sample.text_chars,
                sample.replaced,
                len(images),
                *(_sizes(images) if images else (None, None, None, None, None)),
                sample.text_hash,
            )
        )
        self.images += images
        self.parts += sample.parts
        self.image_starts.append(len(self.images))
        self.part_starts.append(len(self.parts))
        self.data.append(sample.data)

    def table(self) -> pa.RecordBatch:
        first, *flat = SAMPLES.types[:-2]
        columns = zip(*self.lines, strict=True) if self.lines else [()] * len(flat)
        arrays = [pa.array(self.ids, first), *_arrays(columns, flat)]
        arrays.append(_nested(self.images, self.image_starts, IMAGES))
        arrays.append(_nested(self.parts, self.part_starts, PARTS))
        return pa.RecordBatch.from_arrays(arrays, schema=SAMPLES)

    def data_table(self, names: Sequence[str]) -> pa.Table:
        """The fields of the data that filters name."""
        columns = [[data.get(name) for data in self.data] for name in names]
        return pa.table([_values(column) for column in columns], list(names))


def _sizes(images: Sequence[ImageLine]) -> tuple[int, int, float, int, int]:
    """Least width and height, largest aspect, pixels, bytes."""
    if len(images) == 1:
        _, _, size, width, height, _, _ = images[0]
        return width, height, width / height if width > height else height / width, width * height, size
    return (
        min(image.width for image in images),
        min(image.height for image in images),
        max(max(image.width, image.height) / min(image.width, image.height) for image in images),
        sum(image.width * image.height for image in images),
        sum(image.size for image in images),
    )


def _arrays(columns: Any, kinds: Sequence[pa.DataType]) -> list[pa.Array]:
    return [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]


def _nested(items: Sequence[tuple[Any, ...]], starts: list[int], kind: pa.ListType) -> pa.ListArray:
    fields = list(kind.value_type)
    columns = zip(*items, strict=True) if items else [()] * len(fields)
    values = pa.StructArray.from_arrays(_arrays(columns, [field.type for field in fields]), fields=fields)
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), values, type=kind)


def _values(values: list[Any]) -> pa.Array:
    values = [clean(value) if isinstance(value, str) else value for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError):
        return _as_text(values)


def _as_text(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def joined(tables: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    """The data's own columns of all batches: a kind of number that holds them all, text where they are mixed."""
    if not tables:
        return pa.table({name: pa.nulls(0) for name in names})
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException:
        texts = [[_as_text(column.to_pylist()) for column in table.columns] for table in tables]
        return pa.concat_tables([pa.table(columns, list(names)) for columns in texts])
