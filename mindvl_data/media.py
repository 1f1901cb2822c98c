"""Image bytes from where they lie: a byte range of a source's file or of the build's media store, checked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import fsspec

from mindvl_data.errors import UserError
from mindvl_data.shards import Patience, StoreError, patiently

BUILD_SCHEME = "build:"
LOCAL_FILE = "local.json"
OPEN_FILES = 64
VARIABLE = re.compile(r"\$\{(\w+)\}")
SPECIAL = re.compile(r"[*?\[{](?<!\$\{)")


class MediaError(UserError):
    """An image that is not where it was, or not what it was; the message names file and range."""


def unreadable(uri: str, offset: int, size: int, error: Exception) -> MediaError:
    return MediaError(f"{uri} [{offset}, +{size}]: cannot be read ({error}); was the source moved?")


def changed(uri: str, offset: int, size: int) -> MediaError:
    return MediaError(f"{uri} [{offset}, +{size}]: changed since it was scanned; restore it or build again")


class MediaReader:
    """Reads ranges by `uri`, keeping a few files open.

    A uri is relative to the recipe's folder, a URL, or `build:media/…` for a file of the build's own folder;
    `${VAR}` in it is resolved here and nowhere else. roots: where a uri may lead; a shard that points anywhere
    else is refused, so that reading a stranger's data set reads nothing that its manifest does not name.
    """

    def __init__(
        self,
        build_folder: str | Path,
        roots: Sequence[str],
        recipe: str | Path | None = None,
        patience: Patience = Patience(),  # noqa: B008, it is frozen
    ) -> None:
        self._build = str(build_folder)
        self._patience = patience
        self._roots = tuple(roots)
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
        """`size` bytes at `offset`. Raises MediaError when they are missing or not those the build saw.

        A store that fails or falls silent is asked again; after the last time the error says so.
        """
        place = self.place(uri)
        try:
            if "://" in place:
                data = patiently(lambda: _range(place, offset, size), f"{uri} [{offset}, +{size}]", self._patience)
            else:
                file = self._file(place)
                file.seek(offset)
                data = file.read(size)
        except StoreError as error:
            raise MediaError(str(error)) from error
        except OSError as error:
            raise unreadable(uri, offset, size, error) from error
        if len(data) != size or (sha256 is not None and hashlib.sha256(data).digest() != sha256):
            raise changed(uri, offset, size)
        return data

    def _file(self, place: str) -> IO[bytes]:
        if place not in self._open:
            # Opened as it is: fsspec would read `::` in a local name as a chain of stores.
            self._open[place] = open(place, "rb")  # noqa: SIM115, kept open
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(place)
        return self._open[place]

    def place(self, uri: str) -> str:
        """The local path or URL of a uri. Raises MediaError where it leads out of what the manifest names."""
        if uri.startswith(BUILD_SCHEME):
            name = uri.removeprefix(BUILD_SCHEME)
            if Path(name).parent != Path("media") or ".." in name:
                raise MediaError(f"{uri}: is no file of the build's media folder")
            return f"{self._build}/{name}"
        root = next((root for root in self._roots if uri.startswith(root)), None)
        below = "" if root is None else uri[len(root) :]
        if root is None or below.startswith("/") or "://" in below or ".." in below.split("/"):
            raise MediaError(f"{uri}: lies in none of the folders that the manifest's sources name")
        place = expand(uri)
        return place if "://" in place else str(Path(self._recipe or recipe_folder(self._build)) / place)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def _range(url: str, offset: int, size: int) -> bytes:
    store, place = fsspec.core.url_to_fs(url)
    return bytes(store.cat_file(place, start=offset, end=offset + size))


def expand(text: str) -> str:
    """`${VAR}` from the environment; nothing else is special."""
    return VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), text)


def fixed_folder(pattern: str) -> str:
    """The folder before a pattern's first wildcard or brace, with its last slash; `${VAR}` is no brace."""
    special = SPECIAL.search(pattern)
    return pattern[: pattern.rfind("/", 0, special.start() if special else len(pattern)) + 1]


def source_roots(sources: Mapping[str, Any]) -> list[str]:
    """Where the sources of a recipe (as written) let their images lie."""
    patterns = [path for source in sources.values() for path in _as_list(source["path"])]
    folders = [f"{source['images'].rstrip('/')}/" for source in sources.values() if source.get("images")]
    return [fixed_folder(pattern) for pattern in patterns] + folders + patterns


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def recipe_folder(build_folder: str | Path) -> str:
    """Where the recipe lies: the build notes it beside the data set, where it is not part of it."""
    note = Path(build_folder) / LOCAL_FILE
    try:
        return str(json.loads(note.read_text())["recipe_folder"])
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(f"{note}: does not say where the recipe lies ({error}); pass media_root") from error
