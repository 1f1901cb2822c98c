"""Where one large file can be cut, so that several processes scan it: at newlines, row groups, places in a tar.

The cuts depend on the file alone, never on how many processes there are, and a row keeps its number in the file. So
a cut file gives the same lines of the samples table, in the same order, as a whole one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import IO

import pyarrow.parquet as pq

from mindvl_data.errors import reading
from mindvl_data.sources import Piece, SourceError
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.json_rows import is_array

LINES = (".jsonl", ".ndjson", ".json")
PIECE_BYTES = 512 << 20
# Each piece of a tar walks over all headers, a fifth of a scan, since members of a key may lie anywhere.
TAR_FACTOR, TAR_PIECES = 4, 8
CHUNK_BYTES = 4 << 20


def row_pieces(file: SourceFile) -> list[Piece]:
    """The pieces of a file of rows, of about PIECE_BYTES each; [] for a file that cannot be cut or need not be.

    Parquet is cut between row groups, JSON Lines at newlines. A JSON array and compressed text are read in one go.
    """
    if file.size <= PIECE_BYTES:
        return []
    parquet = file.path.endswith(".parquet")
    with reading(file.uri, "a file of rows", SourceError), file.open(whole=not parquet) as handle:
        if parquet:
            return list(_row_groups(handle, file))
        if not file.path.endswith(LINES) or is_array(handle.read(CHUNK_BYTES), file.path):
            return []
        return list(_lines(handle, file.size))


def tar_pieces(file: SourceFile) -> list[Piece]:
    """Byte ranges of a local tar of gigabytes: a sample is in the piece in which its first member begins.

    One in a store comes as a stream, and every piece would bring all of it; so would every piece of a compressed one.
    """
    count = min(TAR_PIECES, file.size // (TAR_FACTOR * PIECE_BYTES))
    if "://" in file.place or count < 2 or not file.path.endswith(".tar"):
        return []
    cuts = [file.size * number // count for number in range(count + 1)]
    return [Piece(start, stop, 0, stop - start) for start, stop in itertools.pairwise(cuts)]


def _row_groups(handle: IO[bytes], file: SourceFile) -> Iterator[Piece]:
    table = pq.read_metadata(handle)
    start = row = rows = size = 0
    left = file.size
    for number in range(table.num_row_groups):
        group = table.row_group(number)
        rows += group.num_rows
        size += sum(group.column(i).total_compressed_size for i in range(group.num_columns))
        last = number == table.num_row_groups - 1
        if size >= PIECE_BYTES or last:
            # The last has the footer and what else lies between: the sizes add up to the file's.
            yield Piece(start, number + 1, row, left if last else size)
            start, row, rows, left, size = number + 1, row + rows, 0, left - size, 0


def _lines(handle: IO[bytes], end: int) -> Iterator[Piece]:
    """Byte ranges that end behind a newline, each with the number of the line that it begins with."""
    handle.seek(0)
    start = position = row = rows = 0
    while chunk := handle.read(CHUNK_BYTES):
        cut = chunk.find(b"\n", max(0, start + PIECE_BYTES - position)) + 1
        if cut:
            rows += chunk.count(b"\n", 0, cut)
            yield Piece(start, position + cut, row, position + cut - start)
            start, row, rows = position + cut, row + rows, 0
        rows += chunk.count(b"\n", cut)
        position += len(chunk)
    if start < end:
        yield Piece(start, end, row, end - start)
