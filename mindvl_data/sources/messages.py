"""OpenAI messages: `messages` of role and content, a string or blocks of text and images.

With images beside the messages (`images`), `<image>` in a text is the place of the next; without, it is text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindvl_data.sources import Asked, Image, Record, Row, Sample, Unusable, loss_of, split_places, uid_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.images import VIDEO, check_places, image_of, images_of
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("messages", "image", "images", "id", *VIDEO)
ROLES = ("system", "user", "assistant")
TOOLS = frozenset({"tool", "function", "tool_call", "tool_response"})
UNSUPPORTED = ("video", "video_url", "audio", "input_audio")


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row or line."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    messages = row.get("messages")
    if not isinstance(messages, list):
        raise Unusable("malformed_record", "a record is an object with a list of messages")
    beside, inside = images_of(row), list[Image]()
    parts: list[Part] = []
    for turn, message in enumerate(messages):
        parts.extend(_turn(turn, message, inside, bool(beside)))
    if beside and not inside and not any(part.text is None for part in parts):
        # Places are left out where all images stand before the first question.
        first = next((i for i, part in enumerate(parts) if part.role == "user"), 0)
        parts[first:first] = [Part(parts[first].turn if parts else 0, "user", None, None)] * len(beside)
    check_places(parts, beside + inside)
    return Sample(key, parts, beside + inside, uid_of(row, "id"))


def _turn(turn: int, message: Any, images: list[Image], places: bool) -> Iterator[Part]:
    """The parts of one message; images that stand in its blocks are added to `images`."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        tool = isinstance(role, str) and role in TOOLS
        reason = "unsupported_role" if tool else "malformed_record"
        raise Unusable(reason, f"message {turn} is of the role {role!r}; there are: {', '.join(ROLES)}")
    if message.get("tool_calls"):
        raise Unusable("unsupported_role", f"message {turn} calls a tool")
    loss = loss_of(message)
    for text, image in _blocks(message.get("content"), turn):
        if image is not None:
            images.append(image)
            yield Part(turn, role, loss, None)
        elif places and text is not None:
            yield from split_places(text, turn, role, loss)
        else:
            yield Part(turn, role, loss, text)


def _blocks(content: Any, turn: int) -> Iterator[tuple[str | None, Image | None]]:
    if content is not None and not isinstance(content, (str, list)):
        raise Unusable("malformed_record", f"the content of message {turn} is neither a text nor a list of blocks")
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content or []:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            yield block["text"], None
        elif kind in ("image", "image_url"):
            yield None, image_of(next((block[name] for name in ("image", "image_url", "url") if name in block), None))
        elif kind in UNSUPPORTED:
            raise Unusable("unsupported_media", f"message {turn} has a block of type {kind}")
        else:
            raise Unusable("malformed_record", f"message {turn} has a block of type {kind!r}")


read.pieces = row_pieces  # type: ignore[attr-defined]
