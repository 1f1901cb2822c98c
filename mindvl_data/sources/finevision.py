"""FineVision-style Parquet: `images` (structs of bytes) and `texts` (pairs of user and assistant)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data.schema import Part
from mindvl_data.sources import ImageBytes, Record, Sample, Unusable, attempt
from mindvl_data.sources.files import SourceError, SourceFile

BATCH_ROWS = 64


def read(file: SourceFile) -> Iterator[Record]:
    """One sample a row; its images stand before the first user turn."""
    number = 0
    with file.open() as handle:
        try:
            table = pq.ParquetFile(handle)
            missing = {"images", "texts"} - set(table.schema_arrow.names)
            if missing:
                raise SourceError(f"{file.uri}: no column {', '.join(sorted(missing))}; is it finevision?")
            for batch in table.iter_batches(BATCH_ROWS, columns=["images", "texts"]):
                for row in batch.to_pylist():
                    yield attempt(str(number), _sample, row, file)
                    number += 1
        except pa.ArrowInvalid as error:
            raise SourceError(f"{file.uri}: not a readable Parquet file ({error})") from error


def _sample(key: str, row: dict[str, Any], file: SourceFile) -> Sample:
    images = [_image(image, file) for image in row["images"] or []]
    if not row["texts"]:
        raise Unusable("empty", "texts is empty")
    parts = [Part(0, "user", None, None)] * len(images)
    for number, turn in enumerate(row["texts"]):
        for role, place in (("user", 2 * number), ("assistant", 2 * number + 1)):
            if not isinstance(turn.get(role), str):
                raise Unusable("malformed_record", f"turn {number} has no {role} text")
            parts.append(Part(place, role, None, turn[role]))
    return Sample(key, parts, images)


def _image(image: dict[str, Any] | None, file: SourceFile) -> ImageBytes:
    if image and image.get("bytes"):
        return ImageBytes(image["bytes"])
    if image and image.get("path"):
        return file.image(image["path"])
    raise Unusable("missing_image", "an image has neither bytes nor a path")
