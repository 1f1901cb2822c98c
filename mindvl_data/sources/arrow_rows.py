"""Rows of Parquet files, and of the Arrow files in which Hugging Face `datasets` saves to disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.sources import Asked, Piece, Row, SourceError
from mindvl_data.sources.files import SourceFile

# Rows with images hold megabytes, rows of metadata hundreds of bytes.
BATCH_ROWS = {True: 64, False: 4096}
BATCH_BYTES = 16 << 20
READ_BYTES = 1 << 20


def parquet_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row]]:
    """(row number, row) for every row, with those of `columns` and of what filters name that the file has."""
    with file.open() as handle:
        try:
            # By default a whole row group is read ahead, which may hold gigabytes of images.
            table = pq.ParquetFile(handle, pre_buffer=False, buffer_size=READ_BYTES)
            schema = table.schema_arrow
            found = wanted(schema.names, columns, asked, file)
            piece = file.piece or Piece(0, table.num_row_groups, 0, file.size)
            groups = range(piece.start, piece.stop)
            batches = table.iter_batches(_parquet_batch_rows(table.metadata), row_groups=groups, columns=found)
            yield from _rows(batches, found, asked, piece.first_row)
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file.uri}: not a readable Parquet file ({error})") from error


def arrow_rows(file: SourceFile, columns: Sequence[str], asked: Asked) -> Iterator[tuple[str, Row]]:
    """The same for an Arrow stream."""
    with file.open() as handle:
        try:
            stream = pa.ipc.open_stream(handle)
            found = wanted(stream.schema.names, columns, asked, file)
            size = _batch_rows(stream.schema, found)
            yield from _rows(
                (batch.slice(i, size) for batch in stream for i in range(0, batch.num_rows, size)), found, asked
            )
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{file.uri}: not a readable Arrow file ({error})") from error


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


def _parquet_batch_rows(metadata: pq.FileMetaData) -> int:
    """As many rows of a Parquet file as are read at a time: some megabytes of them."""
    size = sum(int(metadata.row_group(number).total_byte_size) for number in range(metadata.num_row_groups))
    return max(1, min(BATCH_ROWS[False], BATCH_BYTES * int(metadata.num_rows) // max(1, size)))


def _batch_rows(schema: pa.Schema, columns: Sequence[str]) -> int:
    return BATCH_ROWS[any(_may_be_large(schema.field(name).type) for name in columns)]


def _may_be_large(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _rows(
    batches: Iterator[pa.RecordBatch], names: Sequence[str], asked: Asked, number: int = 0
) -> Iterator[tuple[str, Row]]:
    for batch in batches:
        columns = [_values(batch.column(name)) for name in names]
        for values in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            yield str(number), asked.renamed(dict(zip(names, values, strict=True)))
            number += 1


def _values(column: pa.Array) -> list[Any]:
    """A column as Python values; strings that are not UTF-8 with surrogates for the bytes that are not."""
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return [_text(value, column.type) for value in column.cast(_as_binary(column.type)).to_pylist()]


def _as_binary(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _as_binary(field.type)) for field in kind])
    return pa.large_list(_as_binary(kind.value_type)) if _is_list(kind) else kind


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _text(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return value.decode("utf-8", "surrogateescape")
    if pa.types.is_struct(kind):
        return {field.name: _text(value[field.name], field.type) for field in kind}
    return [_text(item, kind.value_type) for item in value] if _is_list(kind) else value
