"""Tables of captions: `image` (bytes, a path, or a struct of them), `images` or `video`, and `caption` or `text`."""

from __future__ import annotations

from collections.abc import Iterator

from mindvl_data.sources import Asked, Record, Row, Sample, Unusable, first_text, further_texts, uid_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS, media_of, placed
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("caption", "text", "uid", "id", "file_name", *MEDIA_FIELDS)


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    caption = first_text(row.get("caption"), row.get("text"), where="caption or text")
    # As `metadata.csv` of a folder of pictures has it (`datasets`, imagefolder).
    media = media_of(row) or media_of({"image": row.get("file_name")})
    if not media:
        raise Unusable("missing_image", "a row of captions without an image; format: text reads text alone")
    sample = Sample(key, *placed([Part(0, "caption", None, caption)], media), uid_of(row, "uid", "id"))
    return sample._replace(unused=further_texts(caption=row.get("caption"), text=row.get("text")))


read.render = "caption"  # type: ignore[attr-defined]
read.pieces = row_pieces  # type: ignore[attr-defined]
