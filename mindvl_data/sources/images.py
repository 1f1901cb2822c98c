"""What rows write where an image is: bytes, a struct of bytes and path, a path, a data URL."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from typing import Any

from mindvl_data.sources import Image, ImageBytes, ImagePath, Row, Unusable, listed, split_places
from mindvl_data.tables.schema import Part

MARKER = "<image>"
# How files of images begin, in base64: JPEG, PNG, WebP, GIF, TIFF of either order.
BASE64_IMAGES = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK")
# Linux's limit on a path.
LONGEST_PATH = 4096
VIDEO = ("video", "videos", "audio", "audios")


def is_absent(value: Any) -> bool:
    """Whether a value says that there is no image: null, nothing, or a struct of nulls, as tables write it."""
    return value is None or value in ("", b"") or (isinstance(value, dict) and not any(value.values()))


def image_of(value: Any) -> Image:
    """The image in a cell of a table or a value of JSON. Raises Unusable."""
    if isinstance(value, ImageBytes):
        return value
    if isinstance(value, bytes) and value:
        return ImageBytes(value)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path") or value.get("url")
        if isinstance(value, (bytes, str)):
            return image_of(value)
    if not isinstance(value, str) or not value:
        raise Unusable("missing_image", "an image has neither bytes nor a path")
    if not value.startswith("data:"):
        return _path_or_base64(value)
    try:
        return ImageBytes(base64.b64decode(value.partition(",")[2], validate=True))
    except (binascii.Error, ValueError) as error:
        raise Unusable("unreadable_image", f"a data URL is not base64: {error}") from error


def _path_or_base64(value: str) -> Image:
    """A path, or an image in base64 alone: what begins as one does, or is longer than any path."""
    if not value.startswith(BASE64_IMAGES) and len(value) <= LONGEST_PATH:
        return ImagePath(value)
    try:
        return ImageBytes(base64.b64decode("".join(value.split()), validate=True))
    except (binascii.Error, ValueError) as error:
        if len(value) <= LONGEST_PATH:
            return ImagePath(value)
        raise Unusable("missing_image", f"{len(value)} characters that are neither a path nor base64") from error


def images_of(row: Row) -> list[Image]:
    """The images of a row's `images`, else of its `image`: one or a list. Raises Unusable, also for video."""
    for name in VIDEO:
        if row.get(name):
            raise Unusable("unsupported_media", name)
    values = (row.get(name) for name in ("images", "image"))
    value: Any = next((value for value in values if value != [] and not is_absent(value)), [])
    if isinstance(value, str) and value.startswith('["'):
        value = listed({"images": value}, "images") or value
    return [image_of(item) for item in (value if isinstance(value, list) else [value])]


def placed(parts: list[Part], count: int) -> list[Part]:
    """The texts with the places of `count` images: where `<image>` stands as often as there are images, else before
    them. Without images `<image>` is text. Raises Unusable for another number of them, which nobody meant."""
    written = sum(part.text.count(MARKER) for part in parts if part.text)
    if not written or not count:
        return [*[parts[0]._replace(text=None)] * count, *parts]
    if written != count:
        raise Unusable("image_count_mismatch", f"{written} places {MARKER} in the texts for {count} images")
    return [piece for part in parts for piece in _split(part)]


def _split(part: Part) -> Iterator[Part]:
    return split_places(part.text, part.turn, part.role, part.loss) if part.text else iter((part,))


def check_places(parts: Sequence[Part], images: Sequence[Image]) -> None:
    """Raises Unusable where the places of images in the texts are not as many as the images."""
    places = sum(part.text is None for part in parts)
    if places != len(images):
        raise Unusable("image_count_mismatch", f"{places} places for {len(images)} images")
