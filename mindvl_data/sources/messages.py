"""OpenAI messages: `messages` of role and content, a string or blocks of text and images.

With images beside the messages (`images`), `<image>` in a text, or a block of the type `image` without an image of its
own, is the place of the next (or, with `index`, of that one); without, `<image>` is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mindvl_data.sources import (
    Asked,
    Image,
    ImageBytes,
    ImagePath,
    Record,
    Row,
    Sample,
    Unusable,
    listed,
    loss_of,
    split_places,
    uid_of,
)
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.images import VIDEO, image_of, images_of, is_absent
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.rows import samples
from mindvl_data.tables.schema import Part

COLUMNS = ("messages", "image", "images", "uid", "id", *VIDEO)
# The last two are what captions and plain texts are in our exports: `render: caption` or `plain` reads them.
ROLES = ("system", "user", "assistant", "caption", "text")
TOOLS = frozenset({"tool", "function", "tool_call", "tool_response"})
IMAGE_BLOCKS = ("image", "image_url")
UNSUPPORTED = ("video", "video_url", "audio", "input_audio")


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row or line."""
    return samples(file, asked, COLUMNS, _sample)


def _sample(key: str, row: Row) -> Sample:
    messages = listed(row, "messages")
    if messages is None:
        raise Unusable("malformed_record", "a record is an object with a list of messages")
    beside, inside = images_of(row), list[Image | int | None]()
    # Where blocks say the places of the images beside them, `<image>` in a text is text.
    places = bool(beside) and not any(_is_place(block) for message in messages for block in _content(message))
    parts: list[Part] = []
    for turn, message in enumerate(messages):
        parts.extend(_turn(turn, message, inside, places))
    if beside and not inside:
        # Places are left out where all images stand before the first question.
        first = next((i for i, part in enumerate(parts) if part.role == "user"), 0)
        parts[first:first] = [Part(parts[first].turn if parts else 0, "user", None, None)] * len(beside)
        inside = [None] * len(beside)
    return Sample(key, parts, _in_places(inside, beside), uid_of(row, "uid", "id"))


def _content(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _is_place(block: Any) -> bool:
    """Whether a block is an image's place alone: the image stands beside the messages."""
    return isinstance(block, dict) and block.get("type") in IMAGE_BLOCKS and _image(block) is None


def _image(block: Row) -> Any:
    return next((block[name] for name in ("image", "image_url", "url") if not is_absent(block.get(name))), None)


def _in_places(inside: Sequence[Image | int | None], beside: Sequence[Image]) -> list[Image]:
    """The images in the order of their places: a place has its own, or that of a number, or the next one beside."""
    following = iter(beside)
    numbers = [place for place in inside if isinstance(place, int)]
    own = sum(isinstance(place, ImageBytes | ImagePath) for place in inside)
    if len(inside) - own != len(beside) or (numbers and sorted(numbers) != list(range(len(beside)))):
        raise Unusable("image_count_mismatch", f"{len(inside) - own} places for {len(beside)} images")
    return [next(following) if p is None else beside[p] if isinstance(p, int) else p for p in inside]


def _turn(turn: int, message: Any, images: list[Image | int | None], places: bool) -> Iterator[Part]:
    """The parts of one message; what stands in each place of an image is added to `images`: see `_in_places`."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        tool = isinstance(role, str) and role in TOOLS
        reason = "unsupported_role" if tool else "malformed_record"
        raise Unusable(reason, f"message {turn} is of the role {role!r}; there are: {', '.join(ROLES)}")
    if message.get("tool_calls"):
        raise Unusable("unsupported_role", f"message {turn} calls a tool")
    loss = loss_of(message)
    for text, image in _blocks(message.get("content"), turn):
        if text is None:
            images.append(image)
            yield Part(turn, role, loss, None)
        elif places:
            parts = [*split_places(text, turn, role, loss)]
            images.extend(None for part in parts if part.text is None)
            yield from parts
        else:
            yield Part(turn, role, loss, text)


def _blocks(content: Any, turn: int) -> Iterator[tuple[str | None, Image | int | None]]:
    """Texts, or, where that is None, images: itself, its number among those beside, or None for the next of those."""
    if content is not None and not isinstance(content, (str, list)):
        raise Unusable("malformed_record", f"the content of message {turn} is neither a text nor a list of blocks")
    # No blocks are an empty text: the turn is there.
    for block in [{"type": "text", "text": content or ""}] if isinstance(content, str) or not content else content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            yield block["text"], None
        elif kind in IMAGE_BLOCKS:
            found, number = _image(block), block.get("index")
            yield None, image_of(found) if found is not None else number if type(number) is int else None
        elif kind in UNSUPPORTED:
            raise Unusable("unsupported_media", f"message {turn} has a block of type {kind}")
        else:
            raise Unusable("malformed_record", f"message {turn} has a block of type {kind!r}")


read.pieces = row_pieces  # type: ignore[attr-defined]
