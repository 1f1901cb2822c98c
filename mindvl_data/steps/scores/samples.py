"""Samples as a model is asked about them: their images as bytes, their text, and the key of their content."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.media import MediaReader
from mindvl_data.steps.scores.compute import Pictures, texts
from mindvl_data.tables.videos import VideoLine, VideoTable
from mindvl_data.vision import BadImage
from mindvl_data.vision.video.sampled import evenly, pictures

QUALITY = 90


@dataclass(frozen=True)
class Asked:
    """Lines of one samples table, int64 [n], the key of each, and where images lie."""

    samples: Path
    rows: NDArray[np.int64]
    keys: pl.Series
    pictures: Pictures

    def parts(self, size: int) -> Iterator[Asked]:
        """The same lines in parts of so many."""
        for start in range(0, len(self.rows), size):
            yield replace(self, rows=self.rows[start : start + size], keys=self.keys.slice(start, size))


@dataclass(frozen=True)
class Batch:
    """Up to so many samples. images: of a clip a few frames as JPEG. parts: as the samples table has them."""

    keys: pl.Series
    texts: list[str]
    images: list[list[bytes]]
    parts: Sequence[Any]


def batches(asked: Asked, size: int, images: bool = True) -> Iterator[Batch]:
    """The samples in their order, so many at a time; without `images` none is read."""
    table = pq.read_table(asked.samples, columns=["images", "parts"]).take(asked.rows)
    clips = VideoTable(asked.samples)
    with asked.pictures.opened() as reader:
        for start in range(0, len(table), size):
            part = table.slice(start, size).combine_chunks()
            parts = part.column("parts").combine_chunks()
            lines = part.column("images").to_pylist() if images else [[]] * len(part)
            rows = asked.rows[start : start + size].tolist()
            data = [_pictures(reader, asked, clips, *item) for item in zip(rows, lines, strict=True)]
            yield Batch(asked.keys.slice(start, size), texts(parts).to_list(), data, parts.to_pylist())


def _pictures(
    reader: MediaReader, asked: Asked, clips: VideoTable, sample: int, line: Sequence[dict[str, Any]]
) -> list[bytes]:
    """The bytes of a sample's images; in the place of a clip a few of its frames, as far as they decode."""
    found: list[bytes] = []
    for number, image in enumerate(line):
        data = reader.read(image["uri"], image["offset"], image["size"], image["sha256"])
        clip = clips.get(sample, number)
        found += [data] if clip is None else _frames(data, clip, asked.pictures.max_pixels)
    return found


def _frames(data: bytes, clip: VideoLine, max_pixels: int) -> list[bytes]:
    try:
        shown = pictures(data, clip.chosen(evenly(clip.frames)), max_pixels)
    except BadImage:
        return [data]  # who decodes it says what is wrong
    files = []
    for picture in shown:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=QUALITY)
        files.append(file.getvalue())
    return files
