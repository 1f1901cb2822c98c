"""What the members of one key of a tar are: texts by their names, pictures by their names or else by their first bytes.

A suffix is only a name. `.jfif` and `.jpe` are JPEGs, `.svg` is a picture that nothing here can decode: a sample must
not lose it and be trained on its caption alone.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from mindvl_data.sources import RECORD_BYTES, Unusable
from mindvl_data.sources.mapped import FileBytes

# The last row cannot be read yet; but it is a picture, and a sample must not lose one in silence.
IMAGES = frozenset(
    {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"} | {"avif", "heic", "jxl", "jp2", "ppm", "tga", "svg"}
)
UNSUPPORTED = frozenset({"mp4", "webm", "avi", "mov", "mkv", "mp3", "wav", "flac"})
TEXTS = ("txt", "json")
# So many bytes tell what a member is; an SVG may begin with a declaration and a comment.
FIRST_BYTES: Final = 512
PICTURES: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0\0\0\0|II\x2a\0|MM\0\x2a|\xff\x0a|\0\0\0\x0cJXL "
    rb"|\0\0\0\x0cjP  |....ftyp(?:avif|avis|heic|heix|mif1|msf1)|8BPS|P[1-6]\s|qoif|\0\0\x01\0[^\0]\0"
    rb"|(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]",
    re.DOTALL,
)
MEDIA: Final = re.compile(
    rb"....ftyp|\x1aE\xdf\xa3|RIFF....(?:AVI |WAVE)|OggS|ID3|fLaC|FLV\x01|\0\0\x01\xba", re.DOTALL
)
NUMBER = re.compile(r"(\d+)")


class Shape(NamedTuple):
    """What members are by their suffixes: numbers of the images, of `txt` and `json`; of unknown ones; what is wrong.

    Images stand in the order that their names count: 2 before 10.
    """

    images: tuple[int, ...]
    txt: int | None
    json: int | None
    unknown: tuple[int, ...]
    twice: str
    unsupported: str


@lru_cache(maxsize=1024)
def shape_of(suffixes: tuple[str, ...]) -> Shape:
    """The members of a key by their suffixes alone, in lower case."""
    kinds = [kind_of(suffix) for suffix in suffixes]
    numbers = range(len(kinds))
    images = sorted((i for i in numbers if kinds[i] == "image"), key=lambda i: _counting(suffixes[i]))
    txt, meta = (suffixes.index(name) if name in suffixes else None for name in TEXTS)
    twice = next(_repeated(suffixes), "")
    unknown = tuple(i for i in numbers if not kinds[i])
    return Shape(
        tuple(images), txt, meta, unknown, twice, next((suffixes[i] for i in numbers if kinds[i] == "media"), "")
    )


def looked_at(shape: Shape, suffixes: tuple[str, ...], first_bytes: Iterator[bytes]) -> Shape:
    """The same with its unknown members by their first bytes, of each in order; what stays unknown is not used."""
    kinds = {i: kind_by_bytes(data) for i, data in zip(shape.unknown, first_bytes, strict=True)}
    found = [i for i, kind in kinds.items() if kind == "image"]
    images = sorted((*shape.images, *found), key=lambda i: _counting(suffixes[i]))
    media = next((suffixes[i] for i, kind in kinds.items() if kind == "media"), "")
    unknown = tuple(i for i, kind in kinds.items() if not kind)
    return shape._replace(images=tuple(images), unknown=unknown, unsupported=shape.unsupported or media)


@lru_cache(maxsize=1024)
def kind_of(suffix: str) -> str:
    """`image`, `media` or `text`, by the last part of a member's suffix; "" where that says nothing."""
    last = suffix.rpartition(".")[2]
    kind = "image" if last in IMAGES else "media" if last in UNSUPPORTED else ""
    return kind or ("text" if suffix in TEXTS else "")


def kind_by_bytes(first: bytes) -> str:
    """`image`, `media` or "", by what files of the kind begin with."""
    return "image" if PICTURES.match(first) else "media" if MEDIA.match(first) else ""


def _repeated(suffixes: tuple[str, ...]) -> Iterator[str]:
    seen = set[str]()
    for suffix in suffixes:
        if suffix in seen:
            yield suffix
        seen.add(suffix)


def _counting(suffix: str) -> tuple[tuple[str, int], ...]:
    """A suffix as texts and numbers, so that `2.png` comes before `10.png`."""
    pieces = NUMBER.split(suffix)
    numbers = [*map(int, pieces[1::2]), -1]
    return tuple(zip(pieces[::2], numbers, strict=True))


def member_bytes(data: FileBytes, offset: int, size: int) -> bytes:
    """A member that is text, without a byte order mark. Raises Unusable for one too long to be read."""
    if size > RECORD_BYTES:
        raise Unusable("text_too_long", f"a member of {size} bytes")
    return data.data[offset : offset + size].removeprefix(codecs.BOM_UTF8)


def member_text(data: FileBytes, offset: int, size: int) -> str:
    """A member as text; bytes that are not UTF-8 as surrogates, which the scan's rule finds."""
    return member_bytes(data, offset, size).decode("utf-8", "surrogateescape")
