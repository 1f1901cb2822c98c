"""WebDataset tars as img2dataset and DataComp write them: members that share a key make one sample."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mindvl_data.schema import Drop, Part
from mindvl_data.sources import (
    RECORD_BYTES,
    Asked,
    Failed,
    Image,
    ImageBytes,
    Record,
    Row,
    Sample,
    Unusable,
    attempt,
    uid_of,
)
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.mapped import Mapped
from mindvl_data.sources.tar import Gap, Member, Run, walk

# The last row cannot be read yet; but it is a picture, and a sample must not lose one in silence.
IMAGES = frozenset(
    {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"} | {"avif", "heic", "jxl", "jp2", "ppm", "tga"}
)
UNSUPPORTED = frozenset({"mp4", "webm", "avi", "mov", "mkv", "mp3", "wav", "flac"})
# As many samples are put together at a time, and so many bytes of the archive stay mapped.
CHUNK_GROUPS = 8192
MAPPED_BYTES = 256 << 20


PLACE = Part(0, "caption", None, None)


class Group(NamedTuple):
    """The members of one key by suffix (`jpg`, `0.png`), each its place and size, in the archive's order."""

    key: str
    members: dict[str, tuple[int, int]]
    twice: str


class Archive:
    """The groups of an archive. Members of a key need not be adjacent, so the headers are walked before all else.

    Arrays and one string a key are kept, not an object a member: an archive has millions of them.
    """

    def __init__(self, file: SourceFile) -> None:
        self.mapped = Mapped(file.place)
        self.broken: dict[str, Drop] = {}
        self._path = file.path
        self._keys: dict[str, int] = {}
        self._suffixes: dict[str, int] = {}
        # Of every member: its key, its suffix, where it lies and how long it is.
        self._key, self._suffix, self._offset, self._size = (array("q") for _ in range(4))
        self._walk()

    def _walk(self) -> None:
        key, seen, damage = "", 0, None
        for found in walk(self.mapped.view):
            if isinstance(found, Member):
                if found.kind == "other":
                    continue
                if found.kind == "link":
                    drop = Drop("malformed_record", f"{found.name} is a link, not a file")
                    self.broken.setdefault(_key(found.name)[0], drop)
                found = Run([found.name], [found.offset], [found.size])
            if isinstance(found, Run):
                if damage:
                    self.broken.setdefault(_key(found.names[0])[0], damage)
                    damage = None
                self._add(found)
                key = _key(found.names[-1])[0]
                if found.offsets[-1] > seen + MAPPED_BYTES:
                    self.mapped.forget(seen, found.offsets[-1])
                    seen = found.offsets[-1]
            elif isinstance(found, Gap):
                damage = self._damage(found)
                self.broken[key] = damage
            else:
                self.broken[_key(found.name)[0]] = Drop("truncated_archive", f"{self._path} ends within this sample")

    def _add(self, run: Run) -> None:
        keys, suffixes = zip(*map(_key, run.names), strict=True)
        self._key.extend([self._keys.setdefault(key, len(self._keys)) for key in keys])
        self._suffix.extend([self._suffixes.setdefault(suffix, len(self._suffixes)) for suffix in suffixes])
        self._offset.extend(run.offsets)
        self._size.extend(run.sizes)

    def _damage(self, gap: Gap) -> Drop:
        if not self._keys and gap.stop == len(self.mapped.view):
            return Drop("malformed_record", f"{self._path} is no tar archive")
        if gap.stop == len(self.mapped.view):
            return Drop("truncated_archive", f"{self._path} ends in the middle of a header")
        return Drop("damaged_archive", f"{self._path} cannot be read from byte {gap.start} to {gap.stop}")

    def groups(self) -> Iterator[Group]:
        """Every key with its members, in the order in which the keys first come."""
        key, *columns = (np.frombuffer(c, np.int64) for c in (self._key, self._suffix, self._offset, self._size))
        order = np.argsort(key, kind="stable") if np.any(np.diff(key) < 0) else None
        starts = np.concatenate([[0], np.cumsum(np.bincount(key, minlength=len(self._keys)))])
        suffixes, keys, seen = list(self._suffixes), iter(self._keys), 0
        for first in range(0, len(starts) - 1, CHUNK_GROUPS):
            bounds = starts[first : first + CHUNK_GROUPS + 1]
            rows = slice(bounds[0], bounds[-1]) if order is None else order[bounds[0] : bounds[-1]]
            suffix, offset, size = (column[rows].tolist() for column in columns)
            ends = (bounds - bounds[0]).tolist()
            for start, stop in itertools.pairwise(ends):
                places = zip(offset[start:stop], size[start:stop], strict=True)
                names = [suffixes[number] for number in suffix[start:stop]]
                members = dict(zip(names, places, strict=True))
                twice = "" if len(members) == len(names) else next(n for n in names if names.count(n) > 1)
                yield Group(next(keys), members, twice)
            if offset[-1] > seen + MAPPED_BYTES:
                self.mapped.forget(seen, offset[-1])
                seen = offset[-1]


def _key(name: str) -> tuple[str, str]:
    """`a/b.0.png` is the member `0.png` of the sample `a/b`."""
    start = name.find(".", name.rfind("/") + 1)
    return (name[:start], name[start + 1 :].lower()) if start >= 0 else (name, "")


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a key: its images, then its caption (`.txt`, else the JSON's `text` or `caption`)."""
    archive = Archive(file)
    broken = dict(archive.broken)
    for group in archive.groups():
        if drop := broken.pop(group.key, None):
            yield Failed(group.key, drop)
        else:
            yield attempt(group.key, _sample, group, archive.mapped.view, file.uri, asked)
    for key, drop in broken.items():
        yield Failed(key, drop)


def _sample(key: str, group: Group, view: memoryview, uri: str, asked: Asked) -> Sample:
    images, texts = sort_members(group, view, uri)
    meta = asked.renamed(_json(read_text(view, texts["json"]))) if "json" in texts else {}
    caption: Any = meta.get("caption" if "caption" in asked.columns else "text", meta.get("caption"))
    if "txt" in texts and "caption" not in asked.columns:
        caption = read_text(view, texts["txt"])
    if not isinstance(caption, str):
        raise Unusable("malformed_record", "no .txt, and no text or caption in its .json")
    parts = [PLACE] * len(images)
    parts.append(Part(0, "caption", None, caption))
    return Sample(key, parts, images, uid_of(meta, "uid"), asked.kept(meta) if asked.keep else {})


def sort_members(group: Group, view: memoryview, uri: str) -> tuple[list[Image], dict[str, tuple[int, int]]]:
    """A group's images, and where its other members lie by suffix. Raises Unusable."""
    if group.twice:
        raise Unusable("malformed_record", f"two members are called {group.key}.{group.twice}")
    images, texts = list[Image](), {}
    for suffix, place in group.members.items():
        kind = kind_of(suffix)
        if kind == "image":
            offset, size = place
            images.append(ImageBytes(view[offset : offset + size], uri, offset))
        elif kind == "text":
            texts[suffix] = place
        else:
            raise Unusable("unsupported_media", f"{group.key}.{suffix}")
    return images, texts


@lru_cache(maxsize=1024)
def kind_of(suffix: str) -> str:
    """`image`, `unsupported` or `text`, by the last part of a member's suffix."""
    last = suffix.rpartition(".")[2]
    return "image" if last in IMAGES else "unsupported" if last in UNSUPPORTED else "text"


def read_text(view: memoryview, place: tuple[int, int]) -> str:
    """A member as text; bytes that are not UTF-8 as surrogates, which the scan's rule finds."""
    if place[1] > RECORD_BYTES:
        raise Unusable("text_too_long", f"a member of {place[1]} bytes")
    return str(view[place[0] : place[0] + place[1]], "utf-8", "surrogateescape")


def _json(text: str) -> Row:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable("malformed_record", f"its .json: {error}") from error
    if not isinstance(value, dict):
        raise Unusable("malformed_record", "its .json is no object")
    return value


read.render = "caption"  # type: ignore[attr-defined]
