"""Which fields of the data a filter can name: those that hold a single value, by what the first records have."""

from __future__ import annotations

import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.sources import SINGLE
from mindvl_data.sources.csv_rows import CSV, csv_rows
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.json_rows import json_rows

LOOKED_AT = 50


def single_fields(file: SourceFile) -> list[str]:
    """The names, in the data's order; [] where the file is of no kind that says so, or cannot be read as its kind."""
    try:
        return list(dict.fromkeys(_fields(file)))
    except Exception:  # noqa: BLE001, a look: what is wrong with the file, its reader says
        return []


def _fields(file: SourceFile) -> Iterator[str]:
    name = file.path
    if name.endswith(".parquet"):
        with file.open() as opened:
            yield from _columns(pq.ParquetFile(opened).schema_arrow)
    elif name.endswith(".arrow"):
        with file.open() as opened:
            yield from _columns(pa.ipc.open_stream(opened).schema)
    elif name.endswith((".tar", ".tar.gz", ".tgz")):
        yield from _keys(_tar_rows(file))
    elif name.removesuffix(".gz").removesuffix(".zst").endswith((".json", ".jsonl", ".ndjson")):
        yield from _keys(row for _, row in itertools.islice(json_rows(file), LOOKED_AT))
    elif name.endswith(CSV):
        yield from _keys(row for _, row in itertools.islice(csv_rows(file), LOOKED_AT))


def _columns(schema: pa.Schema) -> Iterator[str]:
    for field in schema:
        if not (
            pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        ):
            yield field.name


def _keys(rows: Iterable[Any]) -> Iterator[str]:
    for row in rows:
        if isinstance(row, Mapping):
            yield from (str(key) for key, value in row.items() if isinstance(value, SINGLE))


def _tar_rows(file: SourceFile) -> Iterator[Any]:
    """The first JSON members of a tar."""
    with file.open() as opened, tarfile.open(fileobj=opened, mode="r|*") as archive:
        for member in itertools.islice(archive, LOOKED_AT):
            if member.name.endswith(".json") and (content := archive.extractfile(member)):
                yield json.load(content)
