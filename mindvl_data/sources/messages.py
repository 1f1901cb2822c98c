"""OpenAI messages: `messages` of role and content, a string or blocks of text and images.

With images beside the messages (`images`), `<image>` in a text, or a block of the type `image` without an image of its
own, is the place of the next (or, with `index`, of that one); without, `<image>` is text. Likewise `videos`, `<video>`
and blocks of the type `video`, whose clip may have a `start` and an `end`, or be a list of frames.

What a model thought is a message's `reasoning_content`; the tools of a conversation stand in `tools` beside the
messages, an assistant's calls in `tool_calls`, and a message of the role `tool` is what one gave.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mindvl_data.sources import Asked, Image, Record, Row, Sample, Unusable, listed, loss_of, uid_of, weight_of
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.images import MARKER, VIDEO_MARKER, image_of, is_absent
from mindvl_data.sources.pieces import row_pieces
from mindvl_data.sources.places import MEDIA_FIELDS, Media, media_of, split_at
from mindvl_data.sources.rows import samples
from mindvl_data.sources.videos import video_of
from mindvl_data.tables.schema import Part

COLUMNS = ("messages", "tools", "uid", "id", *MEDIA_FIELDS)
# The last two are what captions and plain texts are in our exports: `render: caption` or `plain` reads them.
ROLES = ("system", "user", "assistant", "tool", "caption", "text")
TOOLS = frozenset({"function", "tool_call", "tool_response"})
# Under which names data have what a model thought; the first that is there counts.
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
# The types of blocks of media, and where in one the medium may stand.
BLOCKS = {"image": MARKER, "image_url": MARKER, "video": VIDEO_MARKER, "video_url": VIDEO_MARKER}
FIELDS = {MARKER: ("image", "image_url", "url"), VIDEO_MARKER: ("video", "video_url", "url", "frames")}
UNSUPPORTED = ("audio", "input_audio", "audio_url")


class Place(NamedTuple):
    """A place in the texts: of which kind (a marker), and its own medium, or the number of that beside, or neither."""

    kind: str
    own: Image | None = None
    number: int | None = None


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a row or line."""
    return samples(file, asked, COLUMNS, conversation)


def conversation(key: str, row: Row) -> Sample:
    """The sample that a row's `messages` and what stands beside them make. Raises Unusable."""
    messages = listed(row, "messages")
    if messages is None:
        raise Unusable("malformed_record", "a record is an object with a list of messages")
    beside, inside = media_of(row), list[Place]()
    # Where blocks say the places of what stands beside them, `<image>` and `<video>` in a text are text.
    markers = bool(beside) and not any(_is_place(block) for message in messages for block in _content(message))
    parts: list[Part] = []
    for turn, message in enumerate(messages):
        parts.extend(_turn(turn, message, inside, beside if markers else None))
    parts = [*_tools(row, parts), *parts]
    if beside and not inside:
        # Places are left out where all media stand before the first question.
        first = next((i for i, part in enumerate(parts) if part.role == "user" and part.field is None), 0)
        parts[first:first] = [Part(parts[first].turn if parts else 0, "user", None, None)] * len(beside.all)
        return Sample(key, parts, beside.all, uid_of(row, "uid", "id"))
    return Sample(key, parts, _in_places(inside, beside), uid_of(row, "uid", "id"))


def _content(message: Any) -> list[Any]:
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, list) else []


def _is_place(block: Any) -> bool:
    """Whether a block is a medium's place alone: the medium stands beside the messages."""
    return isinstance(block, dict) and block.get("type") in BLOCKS and _medium(block, BLOCKS[block["type"]]) is None


def _medium(block: Row, kind: str) -> Any:
    return next((block[name] for name in FIELDS[kind] if not is_absent(block.get(name))), None)


def _in_places(inside: Sequence[Place], beside: Media) -> list[Image]:
    """The media in the order of their places: a place has its own, or that of a number, or the next one beside."""
    waiting: dict[str, Sequence[Image]] = {MARKER: beside.images, VIDEO_MARKER: beside.videos}
    for kind, media in waiting.items():
        places = [place for place in inside if place.kind == kind and place.own is None]
        numbers = [place.number for place in places if place.number is not None]
        if len(places) != len(media) or (numbers and sorted(numbers) != list(range(len(media)))):
            what = "images" if kind == MARKER else "videos"
            raise Unusable("image_count_mismatch", f"{len(places)} places for {len(media)} {what}")
    following = {kind: iter(media) for kind, media in waiting.items()}
    return [_found(place, waiting[place.kind], following[place.kind]) for place in inside]


def _found(place: Place, media: Sequence[Image], following: Iterator[Image]) -> Image:
    if place.own is not None:
        return place.own
    return next(following) if place.number is None else media[place.number]


def _turn(turn: int, message: Any, media: list[Place], beside: Media | None) -> Iterator[Part]:
    """The parts of one message; every place of a medium is added to `media`: see `_in_places`.

    beside: whose places markers in its texts are; None where such markers are text.
    """
    role = message.get("role") if isinstance(message, dict) else None
    if role not in ROLES:
        tool = isinstance(role, str) and role in TOOLS
        reason = "unsupported_role" if tool else "malformed_record"
        raise Unusable(reason, f"message {turn} is of the role {role!r}; there are: {', '.join(ROLES)}")
    if message.get("function_call"):
        raise Unusable("unsupported_role", f"message {turn} calls a function; `tool_calls` is how OpenAI has it now")
    loss, weight = loss_of(message), weight_of(message)
    if role == "tool" and loss:
        raise Unusable("malformed_record", f"message {turn} is what a tool gave, and is to be learnt")
    parts = [*_beside(turn, role, loss, message)]
    if not parts or message.get("content") is not None:
        parts += _said(Part(turn, role, loss, None), message, media, beside)
    yield from (part._replace(weight=weight) for part in parts)


def _beside(turn: int, role: str, loss: bool | None, message: Row) -> Iterator[Part]:
    """What a message says beside its content: see schema.FIELDS."""
    thought = next((message[name] for name in THOUGHTS if message.get(name) is not None), None)
    texts = {"reasoning_content": thought, **{name: message.get(name) for name in ("tool_call_id", "name")}}
    for field, text in texts.items():
        if text is not None and not isinstance(text, str):
            raise Unusable("malformed_record", f"`{field}` of message {turn} is no text")
        if text is not None:
            yield Part(turn, role, loss, text, field)
    calls = listed(message, "tool_calls")
    if calls is None and message.get("tool_calls") is not None:
        raise Unusable("malformed_record", f"`tool_calls` of message {turn} is no list")
    if calls and role != "assistant":
        raise Unusable("malformed_record", f"message {turn} is of the role {role!r} and calls a tool")
    if not all(map(_is_call, calls or ())):
        raise Unusable("malformed_record", f"`tool_calls` of message {turn} has one without the name of a function")
    if calls:
        yield Part(turn, role, loss, _json(calls), "tool_calls")


def _is_call(call: Any) -> bool:
    """OpenAI's, with its `function`, or what that holds."""
    function = call.get("function", call) if isinstance(call, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _tools(row: Row, parts: Sequence[Part]) -> list[Part]:
    """The conversation's tools, before its first message."""
    tools = listed(row, "tools")
    if tools is None and row.get("tools") is not None:
        raise Unusable("malformed_record", "`tools` is no list")
    return [Part(parts[0].turn, parts[0].role, None, _json(tools), "tools")] if tools and parts else []


def _json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unusable("malformed_record", f"tools or their calls are no JSON ({error})") from error


def _said(place: Part, message: Row, media: list[Place], beside: Media | None) -> Iterator[Part]:
    """A message's content, its parts like `place`."""
    for block in _blocks(message.get("content"), place.turn):
        if isinstance(block, Place):
            media.append(block)
            yield place
        elif beside is not None:
            for part, marker in split_at(place._replace(text=block), beside):
                media.extend([Place(marker)] if marker else [])
                yield part
        else:
            yield place._replace(text=block)


def _blocks(content: Any, turn: int) -> Iterator[str | Place]:
    """The texts of a message, and its places of media."""
    if content is not None and not isinstance(content, (str, list)):
        raise Unusable("malformed_record", f"the content of message {turn} is neither a text nor a list of blocks")
    # No blocks are an empty text: the turn is there.
    for block in [{"type": "text", "text": content or ""}] if isinstance(content, str) or not content else content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            yield block["text"]
        elif kind in BLOCKS:
            yield _place(block, BLOCKS[kind])
        elif kind in UNSUPPORTED:
            raise Unusable("unsupported_media", f"message {turn} has a block of type {kind}")
        else:
            raise Unusable("malformed_record", f"message {turn} has a block of type {kind!r}")


def _place(block: Row, kind: str) -> Place:
    found, number = _medium(block, kind), block.get("index")
    if found is None:
        return Place(kind, number=number if type(number) is int else None)
    return Place(kind, image_of(found) if kind == MARKER else video_of(found, block))


read.pieces = row_pieces  # type: ignore[attr-defined]
