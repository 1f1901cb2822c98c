"""Chosen frames encoded anew: a clip becomes the pictures that are looked at, as JPEG of the size that they have."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import IO, Any

from PIL import Image

from mindvl_data.media import MediaReader
from mindvl_data.tokenise.clips import Entry
from mindvl_data.vision import Frame
from mindvl_data.vision.pixels import resized_rgb
from mindvl_data.vision.video.reading import read_frames


class FrameEncoder:
    """Reads clips by `reader`, and appends rows of pictures to `file`."""

    def __init__(self, reader: MediaReader, file: IO[bytes], max_pixels: int) -> None:
        self._reader, self._file, self._max_pixels = reader, file, max_pixels

    def encoded(
        self, entries: Sequence[Entry], images: Sequence[Mapping[str, Any]], patch: int, quality: int
    ) -> list[Entry]:
        """A sample's entries, each of a clip as a row of pictures of its own.

        Args:
            entries: of one sample.
            images: of the sample, as the samples table has them.
            patch: side of a patch in pixels.
            quality: of JPEG.

        Raises:
            BadImage: a frame does not decode.
            MediaError: a clip is not where it was.
        """
        found: list[Entry] = []
        for number, mine in groupby(entries, lambda entry: entry.image):
            some = list(mine)
            found += some if some[0].grid is None else self._clip(some, images[number], patch, quality)
        return found

    def _clip(self, entries: Sequence[Entry], image: Mapping[str, Any], patch: int, quality: int) -> list[Entry]:
        data = self._reader.view(image["uri"], image["offset"], image["size"], image["sha256"])
        pixels = read_frames(data, [frame for entry in entries for frame in entry.frames], self._max_pixels)
        return [self._row(entry, pixels, patch, quality) for entry in entries]

    def _row(self, entry: Entry, pixels: Any, patch: int, quality: int) -> Entry:
        assert entry.grid is not None
        _, height, width = entry.grid
        row, frames = b"", list[Frame]()
        for before, frame in zip([None, *entry.frames], entry.frames, strict=False):
            picture = next(pixels)
            if frame == before:
                frames.append(frames[-1])
                continue
            data = _jpeg(resized_rgb(picture, height * patch, width * patch), quality)
            frames.append(Frame(frame.index, frame.time, offset=len(row), size=len(data)))
            row += data
        own = self._file.tell(), len(row), hashlib.sha256(row).digest()
        self._file.write(row)
        return replace(entry, frames=tuple(frames), shares=False, own=own)


def _jpeg(levels: Any, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    return file.getvalue()
