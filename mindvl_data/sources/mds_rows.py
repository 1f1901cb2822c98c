"""Rows of MDS shards (MosaicML streaming). A shard describes its own columns, so it is read without the index."""

from __future__ import annotations

import codecs
import itertools
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from mindvl_data.errors import reading
from mindvl_data.sources import Asked, ImageBytes, Row, SourceError, unpacked
from mindvl_data.sources.arrow_rows import wanted
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.ranged import Ranged
from mindvl_data.tables.schema import Drop

MAPPED_ROWS = 1024
# Name, encoding, and size in bytes where every sample's is the same.
Column: TypeAlias = tuple[str, str, int | None]
IMAGES = ("jpeg", "png")
IMAGE_BYTES = "image_bytes"
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


def _number(kind: str) -> Callable[[bytes], Any]:
    return lambda data: np.frombuffer(data, np.dtype(kind).newbyteorder("<"))[0].item()


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# Never `pkl`: reading it runs code. `pil` is raw pixels, no image file.
DECODERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "bytes": bytes,
    "str": _text,
    "int": _number("int64"),
    "json": lambda data: json.loads(_text(data.removeprefix(codecs.BOM_UTF8))),
    "str_int": lambda data: int(_text(data)),
    "str_float": lambda data: float(_text(data)),
    **{kind: _number(kind) for kind in NUMBERS},
}


def mds_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row | Drop]]:
    """(row number, row) for every row; an image is the byte range in which it lies, where the shard is not packed."""
    mapped, uri = unpacked.mds_bytes(file)
    with reading(file.uri, "an MDS shard", SourceError):
        offsets, table = _header(mapped.view)
    names = [name for name, _, _ in table]
    read = {*wanted(names, columns, asked, file), *(name for name in names if name == IMAGE_BYTES)}
    for name, kind, _ in table:
        if name in read and kind not in DECODERS and kind not in IMAGES:
            raise SourceError(f"{file.uri}: the column {name} is {kind}, which is not read; write {', '.join(IMAGES)}")
    for number, (start, stop) in enumerate(itertools.pairwise(offsets)):
        try:
            yield str(number), asked.renamed(_with_images(_row(mapped.view, start, stop, table, read, uri)))
        except Exception as error:  # noqa: BLE001, whatever a decoder raises is this row's fault
            yield str(number), Drop("malformed_record", f"not a sample of this shard: {error}")
        if number % MAPPED_ROWS == 0:
            mapped.forget(0, start)


def _with_images(row: dict[str, Any]) -> dict[str, Any]:
    """A row as our exports write it, its images in one column and their sizes in another, with a list of images."""
    images, sizes = row.get("images"), row.get(IMAGE_BYTES)
    if not isinstance(images, bytes) or not isinstance(sizes, list):
        return row
    ends = list(itertools.accumulate(sizes))
    return {**row, "images": [images[end - size : end] for size, end in zip(sizes, ends, strict=True)]}


def _header(view: memoryview | Ranged) -> tuple[list[int], list[Column]]:
    """Where each sample begins, and the end; and what the columns are. Raises whatever is found to be wrong."""
    (count,) = struct.unpack("<I", view[:4])
    table = 4 + 4 * (count + 1)
    offsets = np.frombuffer(view[4:table], "<u4")
    if len(offsets) != count + 1 or np.any(np.diff(offsets.astype(np.int64)) < 0) or offsets[-1] > len(view):
        raise ValueError("its table of samples leads out of the file; was it copied whole?")
    config = json.loads(bytes(view[table : offsets[0]]))
    columns = list(zip(*(config[f"column_{what}"] for what in ("names", "encodings", "sizes")), strict=True))
    for name, kind, size in columns:
        if not isinstance(name, str) or not isinstance(kind, str) or not (size is None or _is_size(size)):
            raise ValueError(f"a column is called {name!r}, of the encoding {kind!r} and the size {size!r}")
    return offsets.tolist(), columns


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _row(
    view: memoryview | Ranged, start: int, stop: int, table: list[Column], read: set[str], uri: str | None
) -> dict[str, Any]:
    """One sample: the sizes of its columns that have no fixed one, then their bytes in order."""
    varying = sum(size is None for _, _, size in table)
    sizes = iter(struct.unpack(f"<{varying}I", view[start : start + 4 * varying]))
    position = start + 4 * varying
    row: dict[str, Any] = {}
    for name, kind, fixed in table:
        size = next(sizes) if fixed is None else fixed
        if position + size > stop:
            raise ValueError(f"column {name} is longer than the sample")
        if name in read:
            data = view[position : position + size]
            row[name] = ImageBytes(data, uri, position) if kind in IMAGES else DECODERS[kind](bytes(data))
        position += size
    return row
