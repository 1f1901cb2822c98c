"""Interleaved documents as OBELICS has them: `texts` and `images` of the same length, one of the two at a place."""

from __future__ import annotations

from collections.abc import Iterator

from mindvl_data.sources import Asked, Image, Record, Row, Sample, Unusable, uid_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.images import image_of
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("texts", "images", "uid", "id")


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a document; every text of it is a turn of its own."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    texts, places = row.get("texts"), row.get("images")
    if not isinstance(texts, list) or not isinstance(places, list):
        raise Unusable("malformed_record", "a document has a list of texts and a list of images")
    if len(texts) != len(places):
        raise Unusable("image_count_mismatch", f"{len(texts)} texts beside {len(places)} places for images")
    parts, images = list[Part](), list[Image]()
    for turn, (text, image) in enumerate(zip(texts, places, strict=True)):
        if (text is None) == (image is None) or not isinstance(text, str | None):
            raise Unusable("malformed_record", f"place {turn} has not exactly one of a text and an image")
        if image is not None:
            images.append(image_of(image))
        parts.append(Part(turn, "text", None, text))
    return Sample(key, parts, images, uid_of(row, "uid", "id"))


read.render = "plain"  # type: ignore[attr-defined]
read.pieces = row_pieces  # type: ignore[attr-defined]
