"""ms-swift's `query` and `response`, with `history`, `system` and `images`; `<image>` in a text is a place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable, uid_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS, media_of, placed_behind
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("query", "response", "history", "system", "id", *MEDIA_FIELDS)


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row; a text without places has its images before the first question."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    pairs = [*_history(row.get("history")), (row.get("query"), row.get("response"))]
    texts = [text for pair in pairs for text in pair]
    if not all(isinstance(text, str) for text in texts):
        raise Unusable("malformed_record", "query and response are texts, history is a list of pairs of texts")
    system = row.get("system")
    parts = [Part(0, "system", None, system)] if isinstance(system, str) and system else []
    start = len(parts)
    parts += [Part(start + turn, ("user", "assistant")[turn % 2], None, text) for turn, text in enumerate(texts)]
    return Sample(key, *placed_behind(parts, start, media_of(row)), uid_of(row, "id"))


def _history(value: Any) -> list[list[Any]]:
    if not isinstance(value, list):
        value = [] if value is None else [value]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise Unusable("malformed_record", "history is a list of pairs of query and response")
    return list(value)


read.pieces = row_pieces  # type: ignore[attr-defined]
