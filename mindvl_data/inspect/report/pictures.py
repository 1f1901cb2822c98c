"""Thumbnails as data URLs: read from where the build's pictures lie, decoded within limits, small, each once."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

from PIL import Image

from mindvl_data.errors import UserError
from mindvl_data.media import MediaReader
from mindvl_data.shards import PackImage
from mindvl_data.vision import BadImage
from mindvl_data.vision.video.sampled import evenly, is_clip, load_shown, pictures, strip

SIDE = 176
QUALITY = 72
# Frames in the strip of a clip, at most.
FRAMES = 8
# A picture of a store costs a request: a report is made in seconds.
MOST_REMOTE = 64


class Thumbnails:
    """Makes thumbnails while there is room for them.

    made: `src`, `width` and `height` of every thumbnail, or what is wrong with the picture in `problem`; the others
    know them by their number. room: how many bytes of data URLs may still be made.
    """

    def __init__(self, media: MediaReader, room: int) -> None:
        self.made: list[dict[str, Any]] = []
        self.room = room
        self._media = media
        self._remote = MOST_REMOTE
        self._numbers: dict[object, int] = {}

    def of_range(self, uri: str, offset: int, size: int) -> int | None:
        """The number of the picture at a place of a file; None where there is no room for it."""
        place = (uri, offset, size)
        if place in self._numbers:
            return self._numbers[place]
        try:
            if "://" in self._media.place(uri):
                self._remote -= 1
                if self._remote < 0:
                    return None
            number = self.of_bytes(self._media.read(uri, offset, size, None))
        except UserError as error:
            number = self._added({"problem": str(error)})
        if number is not None:
            self._numbers[place] = number
        return number

    def of_bytes(self, data: bytes | memoryview) -> int | None:
        """The number of an encoded picture; None where there is no room for it."""
        digest = hashlib.sha256(data).digest()
        if digest not in self._numbers:
            if self.room <= 0:
                return None
            self._numbers[digest] = self._added(_thumbnail(data))
        return self._numbers[digest]

    def of_clip(self, image: PackImage) -> int | None:
        """The number of a strip of the frames that a pack shows of a clip; None where there is no room for it."""
        key = (image.sha256, image.uri, image.offset, image.frames)
        if key not in self._numbers:
            if self.room <= 0 or (image.data is None and "://" in self._media.place(str(image.uri))):
                return None
            self._numbers[key] = self._added(self._strip(image))
        return self._numbers[key]

    def _strip(self, image: PackImage) -> dict[str, Any]:
        frames = [image.frames[number] for number in evenly(len(image.frames), FRAMES).tolist()]
        try:
            place = (str(image.uri), image.offset or 0, image.size or 0, None)
            data = self._media.view(*place) if image.data is None else image.data
            return _encoded(strip(pictures(data, frames), SIDE // 2))
        except (BadImage, UserError) as error:
            return {"problem": str(error)}

    def _added(self, picture: dict[str, Any]) -> int:
        self.room -= len(picture.get("src", ""))
        self.made.append(picture)
        return len(self.made) - 1


def _thumbnail(data: bytes | memoryview) -> dict[str, Any]:
    try:
        image = load_shown(data, SIDE // 2, at_least=2 * SIDE)
    except BadImage as error:
        return {"problem": f"{error.reason}: {error.detail}"}
    except UserError as error:
        return {"problem": str(error)}
    if not is_clip(data):
        image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return _encoded(image)


def _encoded(image: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"src": source, "width": image.width, "height": image.height}
