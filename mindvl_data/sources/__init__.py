"""What a reader of a format yields. One file a format beside this one, found through entry points.

A reader is a function `read(file: SourceFile) -> Iterator[Record]`, registered in the entry-point group
`mindvl_data.sources` under the name that recipes use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from mindvl_data.schema import Drop, Part

GROUP = "mindvl_data.sources"
# How a format's text is rendered unless the recipe says otherwise; a plugin's reader sets `read.render`.
DEFAULT_RENDER = "chat"


class Unusable(Exception):  # noqa: N818 - not an error of the program
    """Raised while one record is parsed: it is dropped for `reason`, its neighbours go on."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.drop = Drop(reason, detail)


@dataclass(frozen=True)
class ImageBytes:
    """An image as it lies in its file: its bytes, and the byte range to find them again.

    `uri` None: no file holds them as one range (a Parquet cell, a data URL); the scan keeps a copy.
    """

    data: bytes
    uri: str | None = None
    offset: int = 0


@dataclass(frozen=True)
class Sample:
    """One sample: `images` stand in the order of the places in `parts`."""

    key: str
    parts: list[Part]
    images: list[ImageBytes]
    uid: str | None = None


@dataclass(frozen=True)
class Failed:
    """One record that is no sample, and why."""

    key: str
    drop: Drop


Record: TypeAlias = Sample | Failed


def attempt(key: str, parse: Callable[..., Sample], *args: Any) -> Record:
    """`parse(key, *args)`, or why there is no sample: the only place where a record's failure is caught."""
    try:
        return parse(key, *args)
    except Unusable as error:
        return Failed(key, error.drop)


def split_places(text: str, turn: int, role: str, loss: bool | None, marker: str = "<image>") -> Iterator[Part]:
    """The parts of a text in which `marker` is the place of an image (LLaVA, ShareGPT)."""
    for number, piece in enumerate(text.split(marker)):
        if number:
            yield Part(turn, role, loss, None)
        if piece:
            yield Part(turn, role, loss, piece)
