"""Image bytes from where they lie: a byte range of a source's file or of the build's media store, checked."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import unquote

from mindvl_data.errors import UserError
from mindvl_data.expanded import VARIABLE, expand
from mindvl_data.note import read_note
from mindvl_data.shards import Patience, StoreError, patiently, store_of

BUILD_SCHEME = "build:"
OPEN_FILES = 64
SPECIAL = re.compile(r"[*?\[{](?<!\$\{)")
NOT_ALLOWED = "lies in no folder that a reader of this set may open; name it with --media-root or --allow"


class MediaError(UserError):
    """An image that is not where it was, or not what it was; the message names file and range."""


def unreadable(uri: str, offset: int, size: int, error: Exception) -> MediaError:
    return MediaError(f"{uri} [{offset}, +{size}]: cannot be read ({error}); was the source moved?")


def changed(uri: str, offset: int, size: int) -> MediaError:
    return MediaError(f"{uri} [{offset}, +{size}]: changed since it was scanned; restore it or build again")


@dataclass(frozen=True)
class Access:
    """What a reader may open beyond the folder of a set and of its build; by default nothing.

    A manifest and its shards may come from anybody, so that neither can open anything: only this can, which the
    user, or the build on this user's machine, has said. folder: what relative uris are relative to. roots: patterns
    and folders as a recipe writes them; variables of the environment are expanded in these, never in the rest of a
    uri. tokenizers: names that may be looked up, as a manifest has them.
    """

    folder: Path | None = None
    roots: tuple[str, ...] = ()
    tokenizers: frozenset[str] = frozenset()


def access_to(build_folder: str, media_root: str | Path | None = None, allow: Sequence[str] = ()) -> Access:
    """What may be opened for the sets of a build: what their user names, and what this user's own build noted there.

    Args:
        build_folder: As `Manifest.build_folder`.
        media_root: The folder that stands for the recipe's; all below it may be read.
        allow: Further folders or prefixes of URLs, as the set's uris begin, and names of tokenizers.
    """
    note = read_note(build_folder) if "://" not in build_folder else None
    named = tuple(prefix if prefix.endswith("/") else f"{prefix}/" for prefix in allow)
    folder = Path(note.recipe_folder) if note else None
    roots = [*(note.roots if note else ()), *named]
    tokenizers = {*allow, *([note.tokenizer] if note else ())}
    if media_root is not None:
        folder, roots = Path(media_root), ["", *roots]
    return Access(folder, tuple(roots), frozenset(tokenizers))


class MediaReader:
    """Reads ranges by `uri`, keeping a few files open.

    A uri is relative to the recipe's folder, a URL, or `build:media/…` for a file of the build's own folder. It is
    read where `access` lets it be; a shard that points anywhere else is refused.
    """

    def __init__(
        self,
        build_folder: str | Path,
        access: Access,
        patience: Patience = Patience(),  # noqa: B008, it is frozen
    ) -> None:
        self._build = str(build_folder)
        self._patience = patience
        self._access = access
        self._roots = [(fixed_folder(root), root) for root in access.roots]
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
        if offset < 0 or size < 0:
            raise MediaError(f"{uri} [{offset}, +{size}]: is no range of a file; the shard was not written by a build")
        try:
            if "://" in place:
                data = patiently(lambda: _range(place, offset, size), f"{uri} [{offset}, +{size}]", self._patience)
            else:
                file = self._file(place)
                if offset + size > os.fstat(file.fileno()).st_size:
                    raise changed(uri, offset, size)
                file.seek(offset)
                data = file.read(size)
        except StoreError as error:
            raise MediaError(str(error)) from error
        except OSError as error:
            raise unreadable(uri, offset, size, error) from error
        if len(data) != size or (sha256 is not None and hashlib.sha256(data).digest() != sha256):
            raise changed(uri, offset, size)
        return data

    def view(self, uri: str, offset: int, size: int, sha256: bytes | None) -> bytes | memoryview:
        """The same range without reading it, of a local file: what is looked at of a long clip is a small part.

        Its hash is not compared (`verify --media` does that); what lies in a store is read, and it is.
        """
        place = self.place(uri)
        if "://" in place:
            return self.read(uri, offset, size, sha256)
        try:
            file = self._file(place)
            if offset < 0 or size <= 0 or offset + size > os.fstat(file.fileno()).st_size:
                raise changed(uri, offset, size)
            start = offset - offset % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(file.fileno(), offset + size - start, access=mmap.ACCESS_READ, offset=start)
        except OSError as error:
            raise unreadable(uri, offset, size, error) from error
        return memoryview(mapped)[offset - start :]

    def size(self, uri: str) -> int:
        """How many bytes the file of a uri has. Raises MediaError where it is not there."""
        place = self.place(uri)
        try:
            if "://" not in place:
                return os.stat(place).st_size
            store, path = store_of(place)
            return int(patiently(lambda: store.info(path)["size"], uri, self._patience))
        except StoreError as error:
            raise MediaError(str(error)) from error
        except OSError as error:
            raise MediaError(f"{uri}: cannot be looked at ({error}); was the source moved?") from error

    def _file(self, place: str) -> IO[bytes]:
        if place not in self._open:
            # Opened as it is: fsspec would read `::` in a local name as a chain of stores.
            self._open[place] = open(place, "rb", opener=_regular)  # noqa: SIM115, kept open
            if len(self._open) > OPEN_FILES:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(place)
        return self._open[place]

    def place(self, uri: str) -> str:
        """The local path or URL of a uri. Raises MediaError where it leads to what may not be opened."""
        if uri.startswith(BUILD_SCHEME):
            return self._own(uri)
        matching = [(folder, root) for folder, root in self._roots if uri == root or uri.startswith(folder)]
        if not matching:
            raise MediaError(f"{uri}: {NOT_ALLOWED}")
        folder, _ = max(matching, key=lambda item: len(item[0]))
        below = uri[len(folder) :]
        if leads_out(below, "://" in folder):
            raise MediaError(f"{uri}: {NOT_ALLOWED}")
        place = expand(folder) + expand(below, _variables_below(folder, matching))
        if "://" in place:
            return place
        if self._access.folder is None and not os.path.isabs(place):
            raise MediaError(f"{uri}: is relative to a recipe that is not here; name the folder with --media-root")
        return str(self._access.folder / place if self._access.folder else Path(place))

    def _own(self, uri: str) -> str:
        """A file of the build's media folder; a link there may come from anybody and is not followed."""
        name = uri.removeprefix(BUILD_SCHEME)
        place = f"{self._build}/{name}"
        if Path(name).parent != Path("media") or ".." in name or ("://" not in place and os.path.islink(place)):
            raise MediaError(f"{uri}: is no file of the build's media folder")
        return place

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def _range(url: str, offset: int, size: int) -> bytes:
    store, place = store_of(url)
    return bytes(store.cat_file(place, start=offset, end=offset + size))


def _regular(path: str, flags: int) -> int:
    """Opens a file that is one: a pipe would be waited for, a device has no end. Raises OSError."""
    handle = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("is no file")
    return handle


def leads_out(below: str, in_store: bool) -> bool:
    """Whether what follows a folder in a name leaves it, as it stands or as a store decodes it."""
    if in_store:
        while (decoded := unquote(below)) != below:
            below = decoded
        below = below.replace("\\", "/")
    chained = "://" in below or (in_store and "::" in below)
    return chained or below.startswith("/") or ".." in below.split("/") or "\0" in below


def _variables_below(folder: str, matching: Sequence[tuple[str, str]]) -> set[str]:
    """The variables that patterns name behind the folder that they have in common: their values are in file names."""
    return {name for other, root in matching if other == folder for name in VARIABLE.findall(root[len(folder) :])}


def fixed_folder(pattern: str) -> str:
    """The folder before a pattern's first wildcard or brace, with its last slash; `${VAR}` is no brace."""
    special = SPECIAL.search(pattern)
    return pattern[: pattern.rfind("/", 0, special.start() if special else len(pattern)) + 1]


def source_roots(sources: Mapping[str, Any]) -> list[str]:
    """Where the sources of a recipe (as written) and their images lie: patterns of files, and folders."""
    patterns = [path for source in sources.values() for path in _as_list(source["path"])]
    folders = [f"{source['images'].rstrip('/')}/" for source in sources.values() if source.get("images")]
    return list(dict.fromkeys([*patterns, *folders]))


def _as_list(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
