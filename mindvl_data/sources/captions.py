"""Tables of captions: `image` (a struct of bytes and path, bytes, or a path) or `images`, and `caption` or `text`."""

from __future__ import annotations

from collections.abc import Iterator

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable, first_text, uid_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.images import VIDEO, images_of, placed
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("image", "images", "caption", "text", "uid", "id", *VIDEO)


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    caption = first_text(row.get("caption"), row.get("text"), where="caption or text")
    images = images_of(row)
    if not images:
        raise Unusable("missing_image", "a row of captions without an image; format: text reads text alone")
    parts = placed([Part(0, "caption", None, caption)], len(images))
    return Sample(key, parts, images, uid_of(row, "uid", "id"))


read.render = "caption"  # type: ignore[attr-defined]
read.pieces = row_pieces  # type: ignore[attr-defined]
