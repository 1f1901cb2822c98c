"""The samples table: its columns, what a sample id is, and the closed list of reasons for a drop."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

# A byte order mark, as a character: at the beginning of a text it is no part of it.
BOM = "\ufeff"
SAMPLE_ID = pa.binary(16)

# A part is a stretch of text in a turn, or, where its text is null, the place of the sample's next image. A turn's text
# is what its parts without a field say; see FIELDS for the others.
PARTS = pa.list_(
    pa.struct(
        [
            ("turn", pa.int16()),
            ("role", pa.string()),
            ("loss", pa.bool_()),
            ("text", pa.string()),
            ("field", pa.string()),
            ("weight", pa.float32()),
        ]
    )
)
# What a message says beside its content, under OpenAI's names: what was thought, calls of tools (JSON), and which call
# a tool answers; and, of the whole conversation, the tools (JSON).
FIELDS = ("reasoning_content", "tool_calls", "tool_call_id", "name", "tools")
# Pointers and sizes, never pixels. `uri` is relative to the recipe's folder with `${VAR}` unresolved, or
# `build:media/…` for bytes that no file holds as one range. Width and height are after EXIF orientation.
IMAGES = pa.list_(
    pa.struct(
        [
            ("uri", pa.string()),
            ("offset", pa.int64()),
            ("size", pa.int64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("format", pa.string()),
            ("sha256", pa.binary(32)),
        ]
    )
)
# One line a sample. `key` is the sample's name within its file, or its row number in decimal; `uid` is the
# name that the data itself brings. `replaced` counts the characters that stand in for what is not UTF-8.
# `text_hash` is SHA-256 of the texts. For samples with images, `width` and
# `height` are the smallest over its images, `aspect` (long side over short) the largest; null without images.
SAMPLES = pa.schema(
    [
        ("sample_id", SAMPLE_ID),
        ("key", pa.string()),
        ("uid", pa.string()),
        ("num_turns", pa.int16()),
        ("text_chars", pa.int32()),
        ("replaced", pa.int32()),
        ("num_images", pa.int16()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("aspect", pa.float32()),
        ("pixels", pa.int64()),
        ("image_bytes", pa.int64()),
        ("text_hash", pa.binary(32)),
        ("images", IMAGES),
        ("parts", PARTS),
    ]
)
# Which tables in the build folder's samples/ the last build used: a list of samples, source, file.
SAMPLES_INDEX = "index.json"
# The same of the evaluation sets.
EVALUATIONS_INDEX = "evaluations.json"
# What a filter's expression may name: everything but the nested columns and raw hashes; and any field of the data
# that is a number, a string or a truth, which the scan keeps beside the table because a filter names it.
FILTER_COLUMNS = tuple(name for name in SAMPLES.names if name not in ("sample_id", "text_hash", "images", "parts"))

# Beside those fields, of a source with `boxes`: which parts of a sample are a box or a name from outside its texts, as
# JSON: a list of (part, box or ref, image, scale or null). No field of the data can be called so.
BOXES = "<boxes>"

# The image files that records of a partition name by path, as the scan found them (size -1: not there): when one
# of them changes, the file that names it does not.
IMAGE_FILES = pa.schema([("path", pa.string()), ("size", pa.int64()), ("stamp", pa.int64())])

LEDGER = pa.schema(
    [
        ("sample_id", SAMPLE_ID),
        ("source", pa.string()),
        ("locator", pa.string()),
        ("step", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
    ]
)

# Every reason for which a sample can leave, and what its reader should make of it.
REASONS = {
    "unreadable_image": "the bytes are no image that Pillow can identify",
    "truncated_image": "the header is sound but the pixels end early",
    "image_too_large": "more pixels than the limit against decompression bombs",
    "aspect_ratio": "one side is over 200 times the other: the resize rule refuses it",
    "missing_image": "an image the sample names does not exist",
    "outside_root": "a path of the sample leads out of its source's folder",
    "too_many_images": "more images than limits.images",
    "image_count_mismatch": "the image places in the text are not as many as the images",
    "unreadable_video": "the bytes are no clip that FFmpeg can read, or one without moving pictures",
    "truncated_video": "the file of a clip is shorter than it says itself",
    "video_too_long": "more frames than limits.video_frames",
    "unsupported_media": "sound, or a video where PyAV is not installed: the detail says which",
    "malformed_record": "the record is not what its format says it should be",
    "unsupported_role": "a turn of a tool or of a role that no chat template knows",
    "text_too_long": "more text than limits.text_chars, or a record too long to be read at all",
    "invalid_utf8": "the text is not UTF-8",
    "chat_template": "the chat template does not take the conversation, or it cannot be told what of it is learnt",
    "box_outside_image": "a box or point leaves its picture: is `boxes.from` right?",
    "box_without_image": "a box whose picture is not there, or could be any of several of different sizes",
    "box_count_mismatch": "the places for boxes or their names in the text are not as many as those in `objects`",
    "truncated_archive": "the archive ends in the middle of this sample",
    "damaged_archive": "the archive is damaged beside this sample, which may have lost a part",
    "not_in_subset": "its uid is not in the source's `uids`",
    "excluded": "the data set's own list of what is in it excludes the sample",
    "empty": "no text to learn from",
    "filtered": "a filter of the recipe does not hold; the detail names it",
    "contaminated": "alike to a sample of an evaluation set; the detail names both",
    "duplicate": "the same images, or text, as a sample that stays; the detail names it",
    "near_duplicate": "nearly the same images, or text, as a sample that stays; the detail names it",
    "balanced": "its group has as many samples as `balance` leaves it; the detail names the group",
    "not_selected": "no capability of a `select` rule has chosen it; the detail names the rule",
    "overlong": "longer than the stage's shortest sequence length",
    "truncated": "kept, but cut to the stage's shortest sequence length; the detail says how much is left",
    "no_loss_token": "what truncation left has no token to learn from",
}


# What the data says of itself in a message or the ledger is cut to this.
DETAIL_CHARS = 200


class Part(NamedTuple):
    """A stretch of text in a turn; `text` None is the place of the sample's next image.

    field: which of FIELDS it is, None for the turn's content. weight: of its turn in the loss, None for 1.
    """

    turn: int
    role: str
    loss: bool | None
    text: str | None
    field: str | None = None
    weight: float | None = None


class Control(Part):
    """A control token by its name, which a rule of the recipe writes: what looks like one in a text never is."""

    __slots__ = ()


@dataclass(frozen=True)
class Drop:
    """Why one record left, without saying which: the step that saw it adds id, source and locator."""

    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        if self.reason not in REASONS:
            raise ValueError(f"{self.reason!r} is not in schema.REASONS")
        object.__setattr__(self, "detail", shortened(self.detail))


def shortened(text: str) -> str:
    """A text of at most DETAIL_CHARS characters: of what data brings, a message shows how it begins and ends."""
    if len(text) <= DETAIL_CHARS:
        return text
    return f"{text[: DETAIL_CHARS - 62]} … {text[-59:]}"


def is_blank(text: str) -> bool:
    """Whether a text is empty, or white space and byte order marks alone."""
    return not text.replace(BOM, "").strip()


def sample_ids(source: str, path: str, keys: Sequence[str]) -> list[bytes]:
    """16 bytes a key: SHA-256 over source name, path relative to its root, and key or row number, NUL between."""
    prefix = f"{source}\0{path}\0".encode("utf-8", "surrogatepass")
    return [hashlib.sha256(prefix + key.encode("utf-8", "surrogatepass")).digest()[:16] for key in keys]
