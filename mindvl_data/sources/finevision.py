"""FineVision: `images` (structs of bytes) and `texts` (pairs of user and assistant)."""

from __future__ import annotations

from collections.abc import Iterator

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable, listed
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS, media_of, placed
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("texts", *MEDIA_FIELDS)


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row; its images stand where its texts say `<image>`, else before the first user turn."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    media = media_of(row)
    turns = listed(row, "texts")
    if turns is None and row.get("texts"):
        raise Unusable("malformed_record", "texts is no list")
    if not turns:
        raise Unusable("empty", "texts is empty")
    parts: list[Part] = []
    for number, turn in enumerate(turns):
        for role, place in (("user", 2 * number), ("assistant", 2 * number + 1)):
            text = turn.get(role) if isinstance(turn, dict) else None
            if not isinstance(text, str):
                raise Unusable("malformed_record", f"turn {number} has no {role} text")
            parts.append(Part(place, role, None, text))
    return Sample(key, *placed(parts, media))


read.pieces = row_pieces  # type: ignore[attr-defined]
