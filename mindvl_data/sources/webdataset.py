"""WebDataset tars as img2dataset and DataComp write them: members that share a key make one sample."""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from mindvl_data.schema import Drop, Part
from mindvl_data.sources import Failed, ImageBytes, Record, Sample, Unusable, attempt
from mindvl_data.sources.files import SourceFile

IMAGES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"}
UNSUPPORTED = {"mp4", "webm", "avi", "mov", "mkv", "mp3", "wav", "flac"}


@dataclass
class _Group:
    """The members of one key, in the order of the archive; they need not be adjacent."""

    images: list[tuple[int, int]] = field(default_factory=list)
    texts: dict[str, tuple[int, int]] = field(default_factory=dict)
    unsupported: str = ""


def read(file: SourceFile) -> Iterator[Record]:
    """One sample a key: its images, then its caption (`.txt`, else the JSON's `text` or `caption`)."""
    with file.open() as handle:
        groups, cut = _groups(handle)
        if cut is not None and cut not in groups:
            yield Failed("", Drop("malformed_record", f"{file.path} is no tar archive"))
        for key, group in groups.items():
            if key == cut:
                yield Failed(key, Drop("truncated_archive", f"{file.path} ends within this sample"))
            else:
                yield attempt(key, _sample, group, handle, file.uri)


def _groups(handle: IO[bytes]) -> tuple[dict[str, _Group], str | None]:
    """Members by key, and the key at which a truncated archive ends ("" when it is no archive at all)."""
    groups: dict[str, _Group] = {}
    end = handle.seek(0, 2)
    handle.seek(0)
    key = ""
    try:
        with tarfile.open(fileobj=handle, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                key = _add(groups, member)
                if member.offset_data + member.size > end:
                    return groups, key
    except tarfile.TarError:
        return groups, key
    return groups, None


def _add(groups: dict[str, _Group], member: tarfile.TarInfo) -> str:
    folder, name = posixpath.split(member.name)
    stem, _, suffix = name.partition(".")
    kind = suffix.rpartition(".")[2].lower()
    key = posixpath.join(folder, stem)
    group = groups.setdefault(key, _Group())
    place = (member.offset_data, member.size)
    if kind in IMAGES:
        group.images.append(place)
    elif kind in UNSUPPORTED:
        group.unsupported = member.name
    else:
        group.texts[kind] = place
    return key


def _sample(key: str, group: _Group, handle: IO[bytes], uri: str) -> Sample:
    if group.unsupported:
        raise Unusable("unsupported_media", group.unsupported)
    meta = _json(_text(handle, group.texts["json"])) if "json" in group.texts else {}
    caption = _text(handle, group.texts["txt"]) if "txt" in group.texts else meta.get("text", meta.get("caption"))
    if not isinstance(caption, str):
        raise Unusable("malformed_record", "no .txt, and no text or caption in its .json")
    images = [ImageBytes(_bytes(handle, place), uri, place[0]) for place in group.images]
    parts = [Part(0, "caption", None, None)] * len(images) + [Part(0, "caption", None, caption)]
    uid = meta.get("uid")
    return Sample(key, parts, images, None if uid is None else str(uid))


def _bytes(handle: IO[bytes], place: tuple[int, int]) -> bytes:
    handle.seek(place[0])
    return handle.read(place[1])


def _text(handle: IO[bytes], place: tuple[int, int]) -> str:
    try:
        return _bytes(handle, place).decode()
    except UnicodeDecodeError as error:
        raise Unusable("invalid_utf8", str(error)) from error


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unusable("malformed_record", f"its .json: {error}") from error
    if not isinstance(value, dict):
        raise Unusable("malformed_record", "its .json is no object")
    return value


read.render = "caption"  # type: ignore[attr-defined]
