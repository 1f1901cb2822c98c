"""What a file is known by again: a fingerprint of its content, or what a store says of it."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mindvl_data.runtime import seals

WHOLE_HASH_BYTES = 16 << 20
WINDOW_BYTES = 64 << 10
WINDOWS = 16
# Names under which stores tell one content of an object from another, the surest first.
CONTENT = ("ETag", "etag", "content_md5", "md5Hash", "blob_id")
CHANGED = ("LastModified", "last_modified", "mtime", "updated", "created")
KEPT_FOLDERS = 16


class ImageFile(NamedTuple):
    """What is known of an image that a record names by its path; size -1: it is not there.

    stamp: a number that stands for when it changed, and for its inode; in a store for its etag, or for the time.
    """

    size: int
    stamp: int


MISSING = ImageFile(-1, 0)


def local_image(status: os.stat_result) -> ImageFile:
    """A file of a disk. A program can set the time of a file's content back, but not that of its inode's change."""
    version = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"
    return ImageFile(status.st_size, _number(version))


def _number(version: str) -> int:
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:7], "little")


def stored_image(info: dict[str, Any]) -> ImageFile:
    """An object of a store as its `info` describes it."""
    version = next((str(info[name]).strip('"') for name in (*CONTENT, *CHANGED) if info.get(name)), "")
    return ImageFile(int(info.get("size") or 0), _number(version) if version else 0)


class Listings:
    """What stores say of the images in their folders: a listing tells of a thousand with one request.

    Each folder is listed when it is first asked for; a few are kept. A copy in another process starts empty.
    """

    def __init__(self) -> None:
        self._folders: OrderedDict[tuple[str, str], dict[str, ImageFile]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_folders": OrderedDict()}

    def image(self, fs: Any, place: str) -> ImageFile:
        """What an image is now; MISSING where there is none. Raises OSError where the store does not say."""
        folder, name = posixpath.split(place)
        key = (fs.unstrip_protocol(folder), folder)
        if key not in self._folders:
            self._folders[key] = _listed(fs, folder)
            if len(self._folders) > KEPT_FOLDERS:
                self._folders.popitem(last=False)
        self._folders.move_to_end(key)
        try:
            # Not every credential may list, and not every store can.
            return self._folders[key].get(name) or stored_image(fs.info(place))
        except FileNotFoundError:
            return MISSING


def _listed(fs: Any, folder: str) -> dict[str, ImageFile]:
    try:
        fs.invalidate_cache(folder)
        infos = fs.ls(folder, detail=True)
    except (OSError, NotImplementedError):
        return {}
    return {posixpath.basename(info["name"]): stored_image(info) for info in infos if info.get("type") == "file"}


class FingerprintCache:
    """Fingerprints by place, size and time of change, so that an unchanged file is not read again.

    path: where they are kept; None for a look that keeps nothing. anew: every file is read again, and all of it.
    listings: of the stores, as long as it lives.
    """

    def __init__(self, path: Path | None = None, anew: bool = False) -> None:
        self._path = path
        self._whole = anew
        self._old: dict[str, str] = _known(path) if path and not anew else {}
        self._new: dict[str, str] = {}
        self.listings = Listings()

    def get(self, fs: Any, path: str, info: dict[str, Any]) -> str:
        # Hashed, since the place may come from a variable.
        place = [path, info["size"], stamp(path, info)]
        known = hashlib.sha256(json.dumps(place).encode()).hexdigest()
        self._new[known] = self._old.get(known) or fingerprint(fs, path, info, self._whole)
        return self._new[known]

    def save(self) -> None:
        if self._path is not None:
            with seals.sealed(self._path) as partial:
                partial.write_text(json.dumps(self._new))


class Unread(FingerprintCache):
    """For a look that must not take the time to read files: every fingerprint is empty."""

    def get(self, fs: Any, path: str, info: dict[str, Any]) -> str:
        return ""


def _known(path: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(seals.checked(path).read_text())
    except (OSError, ValueError):
        return {}
    return known


def stamp(path: str, info: Mapping[str, Any] | None) -> str:
    """What changes when a file is written: size, times and inode on a disk, etag or time in a store (`info`).

    It names no data set: a copy of the same file elsewhere has another.
    """
    if info is None or "ino" in info:
        # Not from `info`, which gives the time of a link and not of what it leads to.
        found = os.stat(path)
        return f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}"
    return str(next((info[name] for name in (*CONTENT, *CHANGED) if info.get(name)), ""))


def fingerprint(fs: Any, path: str, info: dict[str, Any], whole: bool = False) -> str:
    """`sha256:` of the whole file up to 16 MiB, else `sampled:` over its size and 16 windows; `etag:` in stores.

    Args:
        whole: Of files of any size.
    """
    for name in CONTENT:
        if info.get(name):
            return f"etag:{str(info[name]).strip(chr(34))}"
    size = int(info["size"])
    with fs.open(path, "rb") as file:
        if whole or size <= WHOLE_HASH_BYTES:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        for number in range(WINDOWS):
            file.seek(number * (size - WINDOW_BYTES) // (WINDOWS - 1))
            digest.update(file.read(WINDOW_BYTES))
    return f"sampled:{digest.hexdigest()}"
