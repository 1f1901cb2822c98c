"""Image bytes from where they lie: a byte range of a source's file or of the build's media store, checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import fsspec

from mindvl_data.errors import UserError

BUILD_SCHEME = "build:"
LOCAL_FILE = "local.json"
OPEN_FILES = 64


class MediaError(UserError):
    """An image that is not where it was, or not what it was; the message names file and range."""


class MediaReader:
    """Reads ranges by `uri`, keeping a few files open.

    A uri is relative to the recipe's folder, a URL, or `build:…` for a file of the build's own folder;
    `${VAR}` in it is resolved here and nowhere else.
    """

    def __init__(self, build_folder: Path, recipe: str | Path | None = None) -> None:
        self._build = build_folder
        self._recipe = recipe
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()

    def __enter__(self) -> MediaReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._open.values():
            file.close()

    def read(self, uri: str, offset: int, size: int, sha256: bytes | None) -> bytes:
        """`size` bytes at `offset`. Raises MediaError when they are missing or not those the build saw."""
        try:
            file = self._file(uri)
            file.seek(offset)
            data = file.read(size)
        except OSError as error:
            raise MediaError(f"{uri} [{offset}, +{size}]: cannot be read ({error}); was the source moved?") from error
        if len(data) != size or (sha256 is not None and hashlib.sha256(data).digest() != sha256):
            raise MediaError(f"{uri} [{offset}, +{size}]: changed since it was scanned; restore it or build again")
        return data

    def _file(self, uri: str) -> IO[bytes]:
        if uri not in self._open:
            self._open[uri] = fsspec.open(self._place(uri), "rb").open()
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(uri)
        return self._open[uri]

    def _place(self, uri: str) -> str:
        if uri.startswith(BUILD_SCHEME):
            return str(self._build / uri.removeprefix(BUILD_SCHEME))
        place = os.path.expandvars(uri)
        return place if "://" in place else str(Path(self._recipe or recipe_folder(self._build)) / place)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def recipe_folder(build_folder: Path) -> str:
    """Where the recipe lies: the build notes it beside the data set, where it is not part of it."""
    note = build_folder / LOCAL_FILE
    try:
        return str(json.loads(note.read_text())["recipe_folder"])
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(f"{note}: does not say where the recipe lies ({error}); pass media_root") from error
