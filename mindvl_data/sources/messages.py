"""OpenAI messages as JSON Lines: `messages` of role and content, a string or blocks of text and images."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from mindvl_data.schema import Part
from mindvl_data.sources import ImageBytes, Record, Sample, Unusable, attempt
from mindvl_data.sources.files import SourceFile

ROLES = ("system", "user", "assistant")
UNSUPPORTED = ("video", "video_url", "audio", "input_audio")


def read(file: SourceFile) -> Iterator[Record]:
    """One sample a line; an empty line is none."""
    with file.open() as handle:
        for number, line in enumerate(handle):
            if line.strip():
                yield attempt(str(number), _sample, line, file)


def _sample(key: str, line: bytes, file: SourceFile) -> Sample:
    entry = _record(line)
    parts: list[Part] = []
    images: list[ImageBytes] = []
    for turn, message in enumerate(entry["messages"]):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise Unusable("malformed_record", f"message {turn} has none of the roles {', '.join(ROLES)}")
        for text, image in _blocks(message.get("content"), turn, file):
            parts.append(Part(turn, message["role"], message.get("loss"), text))
            images += [image] if image else []
    uid = entry.get("id")
    return Sample(key, parts, images, None if uid is None else str(uid))


def _record(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except UnicodeDecodeError as error:
        raise Unusable("invalid_utf8", str(error)) from error
    except (ValueError, RecursionError) as error:
        raise Unusable("malformed_record", str(error)) from error
    if not isinstance(entry, dict) or not isinstance(entry.get("messages"), list):
        raise Unusable("malformed_record", "a line is an object with a list of messages")
    return entry


def _blocks(content: Any, turn: int, file: SourceFile) -> Iterator[tuple[str | None, ImageBytes | None]]:
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            yield block["text"], None
        elif kind in ("image", "image_url"):
            yield None, _image(block, file)
        elif kind in UNSUPPORTED:
            raise Unusable("unsupported_media", f"message {turn} has a block of type {kind}")
        else:
            raise Unusable("malformed_record", f"message {turn} has a block of type {kind!r}")


def _image(block: dict[str, Any], file: SourceFile) -> ImageBytes:
    place = block.get("image", block.get("image_url", block.get("url")))
    place = place.get("url") if isinstance(place, dict) else place
    if not isinstance(place, str):
        raise Unusable("malformed_record", "an image block has no path and no data URL")
    if not place.startswith("data:"):
        return file.image(place)
    try:
        return ImageBytes(base64.b64decode(place.partition(",")[2], validate=True))
    except binascii.Error as error:
        raise Unusable("unreadable_image", f"a data URL is not base64: {error}") from error
