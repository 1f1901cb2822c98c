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
from mindvl_data.vision.video.container import container_of

# The last row cannot be read yet; but it is a picture, and a sample must not lose one in silence.
IMAGES = frozenset(
    {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"} | {"avif", "heic", "jxl", "jp2", "ppm", "tga", "svg"}
)
VIDEOS = frozenset({"mp4", "webm", "avi", "mov", "mkv", "m4v", "ogv", "flv", "mpg", "mpeg", "wmv", "3gp"})
UNSUPPORTED = frozenset({"mp3", "wav", "flac", "m4a", "aac", "opus"})
TEXTS = ("txt", "json")
# So many bytes tell what a member is; an SVG may begin with a declaration and a comment.
FIRST_BYTES: Final = 512
PICTURES: Final = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|GIF8[79]a|BM....\0\0\0\0|II\x2a\0|MM\0\x2a|\xff\x0a|\0\0\0\x0cJXL "
    rb"|\0\0\0\x0cjP  |....ftyp(?:avif|avis|heic|heix|mif1|msf1)|8BPS|P[1-6]\s|qoif|\0\0\x01\0[^\0]\0"
    rb"|(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]",
    re.DOTALL,
)
SOUND: Final = re.compile(rb"....ftypM4A|RIFF....WAVE|ID3|fLaC", re.DOTALL)
NUMBER = re.compile(r"(\d+)")


class Shape(NamedTuple):
    """What members are by their suffixes: numbers of the images, of `txt` and `json`; of unknown ones; what is wrong.

    images: pictures and clips, in the order that their names count: 2 before 10. videos: which of them are clips.
    """

    images: tuple[int, ...]
    videos: frozenset[int]
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
    videos = frozenset(i for i in numbers if kinds[i] == "video")
    images = sorted((i for i in numbers if kinds[i] in ("image", "video")), key=lambda i: _counting(suffixes[i]))
    txt, meta = (suffixes.index(name) if name in suffixes else None for name in TEXTS)
    twice = next(_repeated(suffixes), "")
    unknown = tuple(i for i in numbers if not kinds[i])
    sound = next((suffixes[i] for i in numbers if kinds[i] == "sound"), "")
    return Shape(tuple(images), videos, txt, meta, unknown, twice, sound)


def looked_at(shape: Shape, suffixes: tuple[str, ...], first_bytes: Iterator[bytes]) -> Shape:
    """The same with its unknown members by their first bytes, of each in order; what stays unknown is not used."""
    kinds = {i: kind_by_bytes(data) for i, data in zip(shape.unknown, first_bytes, strict=True)}
    found = [i for i, kind in kinds.items() if kind in ("image", "video")]
    images = sorted((*shape.images, *found), key=lambda i: _counting(suffixes[i]))
    sound = next((suffixes[i] for i, kind in kinds.items() if kind == "sound"), "")
    unknown = tuple(i for i, kind in kinds.items() if not kind)
    return shape._replace(
        images=tuple(images),
        videos=shape.videos.union(i for i in found if kinds[i] == "video"),
        unknown=unknown,
        unsupported=shape.unsupported or sound,
    )


@lru_cache(maxsize=1024)
def kind_of(suffix: str) -> str:
    """`image`, `video`, `sound` or `text`, by the last part of a member's suffix; "" where that says nothing."""
    last = suffix.rpartition(".")[2]
    kinds = {"image": IMAGES, "video": VIDEOS, "sound": UNSUPPORTED}
    kind = next((kind for kind, suffixes in kinds.items() if last in suffixes), "")
    return kind or ("text" if suffix in TEXTS else "")


def kind_by_bytes(first: bytes) -> str:
    """`image`, `video`, `sound` or "", by what files of the kind begin with."""
    if PICTURES.match(first):
        return "image"
    return "sound" if SOUND.match(first) else "video" if container_of(first) else ""


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
