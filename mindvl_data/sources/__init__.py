"""What a reader of a format yields. One file a format beside this one, found through entry points.

A reader is a function `read(file: SourceFile, asked: Asked) -> Iterator[Record]`, registered in the entry-point
group `mindvl_data.sources` under the name that recipes use. It yields one record for everything it finds, in the
order of the file, and opens no image: the scan does that, for all formats alike.

A reader that can read a part of a large file says where to cut it: `read.pieces` is then a function
`pieces(file: SourceFile) -> list[Piece]`, and `read` honours `file.piece`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from mindvl_data.errors import UserError
from mindvl_data.tables.schema import BOXES, Drop, Part, is_blank

__all__ = [
    "Asked",
    "Failed",
    "Image",
    "ImageBytes",
    "ImagePath",
    "Piece",
    "Record",
    "Row",
    "Sample",
    "SourceError",
    "Unusable",
    "Video",
    "attempt",
    "first_text",
    "further_texts",
    "listed",
    "loss_of",
    "uid_of",
    "weight_of",
]

GROUP = "mindvl_data.sources"
# How a format's text is rendered unless the recipe says otherwise; a plugin's reader sets `read.render`.
DEFAULT_RENDER = "chat"
# One record of a text format is at most this long: a broken file must not be read into memory whole. It is far
# above `limits.text_chars`, because images may stand in a record as base64.
RECORD_BYTES = 64 << 20
LOSS_FIELDS = ("loss", "train", "training")
WEIGHING = frozenset((*LOSS_FIELDS, "weight"))
# What a turn may weigh at most: more is a mistake, and drowns every other turn.
MOST_WEIGHT = 1000
# What a filter can compare; times as pyarrow gives them.
SINGLE = (str, int, float, bool, date, time, timedelta)


class SourceError(UserError):
    """A source that cannot be read at all; the message says which, where and what to do."""


class Scattered(SourceError):  # noqa: N818 - no error where somebody reads again
    """What a reader made of a stream in one pass does not hold: begin again with `one_pass` of the file off."""


class Unusable(Exception):  # noqa: N818 - not an error of the program
    """Raised while one record is parsed: it is dropped for `reason`, its neighbours go on."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.drop = Drop(reason, detail)
        super().__init__(f"{reason}: {self.drop.detail}")


class ImageBytes(NamedTuple):
    """An image as it lies in its file: its bytes, and the byte range to find them again.

    `uri` None: no file holds them as one range (a Parquet cell, a data URL); the scan keeps a copy.
    """

    data: bytes | memoryview
    uri: str | None = None
    offset: int = 0


class ImagePath(NamedTuple):
    """An image that a record names by a path, relative to the source's image folder; the scan opens it."""

    path: str


class Video(NamedTuple):
    """A clip: one file, or (`listed`) the pictures that are its frames.

    start, end: seconds of it that count, from the first that is not before `start` to the last before `end`. times,
    rate: of listed frames, each one's seconds or how many there are a second.
    """

    media: tuple[ImageBytes | ImagePath, ...]
    listed: bool = False
    start: float | None = None
    end: float | None = None
    times: tuple[float, ...] | None = None
    rate: float | None = None


Image: TypeAlias = ImageBytes | ImagePath | Video


class Sample(NamedTuple):
    """One sample: `images`, pictures and clips, stand in the order of the places in `parts`.

    data: the values of the fields in `Asked.keep`, of those that the record has. unused: the suffixes of what lies
    beside it under its key and is no part of it.
    """

    key: str
    parts: list[Part]
    images: list[Image]
    uid: str | None = None
    data: Mapping[str, Any] = {}
    unused: tuple[str, ...] = ()


class Failed(NamedTuple):
    """One record that is no sample, and why."""

    key: str
    drop: Drop


class Piece(NamedTuple):
    """A part of a large file: bytes or row groups [start, stop), the number of its first row, its size in bytes."""

    start: int
    stop: int
    first_row: int
    size: int


Record: TypeAlias = Sample | Failed
Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """What the recipe asks of a reader.

    columns: the data's name of a field, by ours. keep: fields that filters name beside the samples table's own.
    boxes: whether the source says what its boxes are; BOXES is then among `keep`.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    boxes: bool = False

    def name(self, field_name: str) -> str:
        """What the data calls one of our fields."""
        return self.columns.get(field_name, field_name)

    def renamed(self, row: Row) -> Row:
        """A record with its fields under our names, beside those it has."""
        return {**row, **{ours: row.get(theirs) for ours, theirs in self.columns.items()}} if self.columns else row

    def kept(self, row: Row) -> dict[str, Any]:
        """The single values that filters name. Raises Unusable for one that no filter could compare."""
        found = {name: row.get(name) for name in self.keep if name != BOXES}
        return {name: _single(name, value) for name, value in found.items() if value is not None}


def _single(name: str, value: Any) -> Any:
    """A value as a column can hold it: decimals as numbers, UUIDs as text. Raises Unusable."""
    if isinstance(value, SINGLE):
        return value
    if isinstance(value, Decimal):
        return float(value) if value.is_nan() or value % 1 else int(value)
    if isinstance(value, UUID):
        return str(value)
    raise Unusable("malformed_record", f"`{name}` is {type(value).__name__}, and a filter compares single values only")


Parse: TypeAlias = Callable[[str, Row], Sample]


def attempt(key: str, parse: Callable[..., Sample], *args: Any) -> Record:
    """`parse(key, *args)`, or why there is no sample: the only place where a record's failure is caught."""
    try:
        return parse(key, *args)
    except Unusable as error:
        return Failed(key, error.drop)


def loss_of(turn: Row) -> bool | None:
    """Whether a turn says itself that it is trained on: by `loss`, `train` or `training`, or a `weight` of 0.

    Raises Unusable where it is no truth value, or two of them differ.
    """
    if turn.keys().isdisjoint(WEIGHING):  # nearly every turn: the rest costs a fifth of the scan of chats
        return None
    said = {name: turn[name] for name in LOSS_FIELDS if turn.get(name) is not None}
    for name, loss in said.items():
        if not isinstance(loss, (bool, int, float)) or loss not in (True, False):
            raise Unusable("malformed_record", f"`{name}` is {loss!r}, not true or false (or 1 or 0)")
    if len(set(map(bool, said.values()))) > 1:
        raise Unusable("malformed_record", f"`{'` and `'.join(said)}` of a turn differ")
    if turn.get("weight") is not None and not _weight(turn["weight"]):
        if any(said.values()):
            raise Unusable("malformed_record", f"`{'` and `'.join(said)}` and `weight` of a turn differ")
        return False
    return next(map(bool, said.values()), None)


def weight_of(turn: Row) -> float | None:
    """What a turn's loss tokens weigh, None for 1: its `weight`, OpenAI's 0 and 1 or any number between and above.

    Raises Unusable where it is none.
    """
    weight = 1.0 if turn.get("weight") is None else _weight(turn["weight"])
    return None if weight in (0, 1) else weight


def _weight(said: Any) -> float:
    if not isinstance(said, (bool, int, float)) or not 0 <= said <= MOST_WEIGHT:
        raise Unusable("malformed_record", f"`weight` is {said!r}, not a number from 0 to {MOST_WEIGHT}")
    return float(said)


def first_text(*values: Any, where: str) -> str:
    """The first of these texts that is not blank: null and empty are absent; "" where all that there are are empty.

    Of a list of texts each is one, the first first; see `further_texts`.

    Args:
        where: In words, for the message.

    Raises:
        Unusable: None of them is a text.
    """
    texts = [text for value in values for text in _texts(value)]
    if not texts:
        raise Unusable("malformed_record", f"no text in {where}")
    return next((text for text in texts if not is_blank(text)), "")


def further_texts(**values: Any) -> tuple[str, ...]:
    """What is left of lists of texts of which the first is taken, for `Sample.unused`: `captions 2 to 5`."""
    counts = {name: len(_texts(value)) for name, value in values.items()}
    return tuple(f"{name} 2 to {count}" for name, count in counts.items() if count > 1)


def _texts(value: Any) -> list[str]:
    found = value if isinstance(value, list) else [value]
    return [text for text in found if isinstance(text, str)]


def listed(row: Row, *names: str) -> list[Any] | None:
    """The list under the first of these fields that is not null; written as JSON, as columns of CSV and LMDB hold it.

    None where there is none.
    """
    value = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def uid_of(row: Row, *names: str) -> str | None:
    """The name that the data gives a record, under the first of these fields that has one."""
    for name in names:
        value = row.get(name)
        if isinstance(value, int) or (isinstance(value, str) and value):
            return str(value)
    return None
