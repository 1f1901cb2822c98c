"""Rows of Parquet files, and of the Arrow files in which Hugging Face `datasets` saves to disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.errors import reading
from mindvl_data.sources import Asked, Piece, Row, SourceError
from mindvl_data.sources.arrow_values import python_values
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.mapped import Mapped, map_file

# So much is decoded at a time, by what a row group says of its rows; no more rows than that, since a value that stands
# in a dictionary once may come in each of them.
BATCH_BYTES = 4 << 20
BATCH_ROWS = 64
# Of every column so much at a time from a store.
READ_BYTES = 4 << 20
MICROSECONDS: Final[dict[int, Callable[[Any], pa.DataType]]] = {
    pa.types.lib.Type_TIMESTAMP: lambda kind: pa.timestamp("us", kind.tz),
    pa.types.lib.Type_DURATION: lambda kind: pa.duration("us"),
    pa.types.lib.Type_TIME64: lambda kind: pa.time64("us"),
}


def parquet_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row]]:
    """(row number, row) for every row, with those of `columns` and of what filters name that the file has."""
    with reading(file.uri, "a Parquet file", SourceError), _opened(file, whole=False) as (source, mapped):
        # By default a whole row group is read ahead, which may hold gigabytes of images.
        table = pq.ParquetFile(source, pre_buffer=False, buffer_size=0 if mapped else READ_BYTES)
        found = wanted(table.schema_arrow.names, columns, asked, file)
        piece = file.piece or Piece(0, table.num_row_groups, 0, file.size)
        batches = _parquet_batches(table, range(piece.start, piece.stop), found)
        yield from _rows(batches, found, asked, mapped, piece.first_row)


def arrow_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row]]:
    """The same for an Arrow stream."""
    with reading(file.uri, "an Arrow file", SourceError), _opened(file) as (source, mapped):
        stream = pa.ipc.open_stream(source)
        found = wanted(stream.schema.names, columns, asked, file)
        yield from _rows(iter(stream), found, asked, mapped)


@contextmanager
def _opened(file: SourceFile, whole: bool = True) -> Iterator[tuple[Any, Mapped | None]]:
    """What pyarrow reads: a local file by a map, where only what is being decoded takes memory; ranges of others."""
    if "://" in file.place:
        with file.open(whole) as handle:
            yield handle, None
    else:
        mapped = map_file(file.place)
        yield pa.BufferReader(mapped.view), mapped


def wanted(names: Sequence[str], columns: Sequence[str], asked: Asked, file: SourceFile) -> list[str]:
    """The columns of a table that are read. Raises SourceError where the format knows none of them."""
    known = {asked.name(name) for name in columns}
    if not known.intersection(names):
        raise SourceError(
            f"{file.uri}: has none of the columns {', '.join(sorted(known))}; it has {', '.join(names)}. "
            "Is the format right? `columns` maps names"
        )
    known.update(asked.name(name) for name in ("objects", *asked.keep))
    return [name for name in names if name in known]


def _parquet_batches(table: pq.ParquetFile, groups: range, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups, in batches of at most BATCH_ROWS and of about BATCH_BYTES or a row."""

    def batch_rows(number: int) -> int:
        group = table.metadata.row_group(number)
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)))
        return 1 << (int(rows).bit_length() - 1)  # rounded, so that row groups that differ a little go together

    for rows, alike in itertools.groupby(groups, batch_rows):
        yield from table.iter_batches(rows, row_groups=list(alike), columns=columns, use_threads=False)


def _rows(
    batches: Iterator[pa.RecordBatch], names: Sequence[str], asked: Asked, mapped: Mapped | None, number: int = 0
) -> Iterator[tuple[str, Row]]:
    seen = 0
    for batch in batches:
        size = max(1, BATCH_BYTES * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, size):
            part = batch.slice(start, size)
            for values in _lines(part, names):
                yield str(number), asked.renamed(dict(zip(names, values, strict=True)))
                number += 1
            seen += part.nbytes
            if mapped is not None and seen >= BATCH_BYTES:
                mapped.forget(0, len(mapped.view))
                seen = 0


def _lines(batch: pa.RecordBatch, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    columns = [_values(batch.column(name)) for name in names]
    return zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; strings that are not UTF-8 with surrogates for the bytes that are not."""
    if getattr(column.type, "unit", None) == "ns":
        # Python's times end at microseconds.
        column = column.cast(MICROSECONDS[column.type.id](column.type), safe=False)
    return python_values(column)
