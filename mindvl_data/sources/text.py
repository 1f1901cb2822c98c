"""Text alone: `text` (or `content`) of every row, trained on as it stands."""

from __future__ import annotations

from collections.abc import Iterator

from mindvl_data.sources import Asked, Record, Row, Sample, first_text, uid_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("text", "content", "uid", "id")


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    text = first_text(row.get("text"), row.get("content"), where="text or content")
    return Sample(key, [Part(0, "text", None, text)], [], uid_of(row, "uid", "id"))


read.render = "plain"  # type: ignore[attr-defined]
read.pieces = row_pieces  # type: ignore[attr-defined]
