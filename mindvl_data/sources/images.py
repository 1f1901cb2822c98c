"""What rows write where an image is: bytes, a struct of bytes and path, a path, a data URL."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from mindvl_data.sources import Image, ImageBytes, ImagePath, Row, Unusable, listed

MARKER, VIDEO_MARKER = "<image>", "<video>"
# How files of images begin, in base64: JPEG, PNG, WebP, GIF, TIFF of either order.
BASE64_IMAGES = ("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkqA", "TU0AK")
# Linux's limit on a path.
LONGEST_PATH = 4096


def is_absent(value: Any) -> bool:
    """Whether a value says that there is no image: null, nothing, or a struct of nulls, as tables write it."""
    return value is None or value in ("", b"") or (isinstance(value, dict) and not any(value.values()))


def image_of(value: Any) -> ImageBytes | ImagePath:
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


def _path_or_base64(value: str) -> ImageBytes | ImagePath:
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
    """The images of a row's `images`, else of its `image`: one or a list. Raises Unusable."""
    values = (row.get(name) for name in ("images", "image"))
    value: Any = next((value for value in values if value != [] and not is_absent(value)), [])
    if isinstance(value, str) and value.startswith('["'):
        value = listed({"images": value}, "images") or value
    return [image_of(item) for item in (value if isinstance(value, list) else [value])]
