"""The objects of a build folder in an object store: listed, read, sent, copied and removed.

An object appears whole or not at all, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mindvl_data.errors import BuildError
from mindvl_data.shards import Patience, StoreError, patiently, store_of

AT_ONCE = 16
# What stores take in one request, and then whole or not at all.
ONE_PART = 5 << 20
PART_BYTES, MOST_PARTS, PARTS_AT_ONCE = 16 << 20, 9000, 4
# In the others a folder is no more than a part of names.
WITH_FOLDERS = {"file", "local", "sftp", "ssh", "hdfs", "webhdfs", "smb", "webdav"}
# A slow network is no silent one: so many bytes a second are waited for.
LEAST_BYTES_A_SECOND = 1 << 20

T = TypeVar("T")
R = TypeVar("R")


class Objects:
    """Under `url`, by the names that their files have in `folder`."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url.rstrip("/"), folder
        try:
            self._fs, self._root = store_of(self.url)
        except (ImportError, ValueError) as error:
            raise BuildError(f"--out {url.split('://')[0]}://: {error}") from error
        self._sizes: dict[str, int] = {}

    def name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def address(self, path: Path) -> str:
        """Where a file of the folder is read in the store."""
        return f"{self.url}/{self.name(path)}"

    def listed(self) -> Mapping[str, Mapping[str, Any]]:
        """Look at what is in the store now: what it says of each object."""

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(self._root, detail=True)
            return found

        try:
            found = self._ask(find, "")
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise BuildError(f"--out {self.url}: {error.__cause__}; make the bucket first") from error
        objects = {path[len(self._root) :].lstrip("/"): info for path, info in found.items()}
        self._sizes = {name: int(info["size"]) for name, info in objects.items()}
        return objects

    def size(self, name: str) -> int | None:
        """How large an object was when the store was last looked at; None where there was none."""
        return self._sizes.get(name)

    @property
    def names(self) -> Collection[str]:
        """Of all objects, likewise."""
        return self._sizes.keys()

    def below(self, folder: str) -> list[str]:
        """The names of objects in a folder, likewise."""
        return [name for name in self._sizes if name.startswith(f"{folder}/")]

    def read(self, name: str) -> bytes | None:
        """A small object; None where there is none."""
        try:
            return bytes(self._ask(partial(self._fs.cat_file, self._place(name)), name))
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def send(self, path: Path, name: str | None = None) -> None:
        """A file as one object; what was sent in parts is looked at once it is there."""
        name, size = name or self.name(path), path.stat().st_size

        def put() -> None:
            self._make_folder(name)
            self._fs.put_file(str(path), self._place(name), **self._parts(size))
            if size > ONE_PART:
                self._fs.invalidate_cache()
                if int(self._fs.info(self._place(name))["size"]) != size:
                    raise OSError("it arrived otherwise than it was sent")

        self._ask(put, name, size)
        self._sizes[name] = size

    def write(self, name: str, text: str) -> None:
        """A small object."""
        self._make_folder(name)
        self._ask(partial(self._fs.pipe_file, self._place(name), text.encode()), name)

    def copy(self, source: str, name: str) -> None:
        """An object under another name, within the store."""
        self._make_folder(name)
        self._ask(partial(self._fs.cp_file, self._place(source), self._place(name)), name, self._sizes.get(source, 0))
        self._sizes[name] = self._sizes[source]

    def remove(self, names: Iterable[str]) -> None:
        """Objects that are there no more, whether they were or not."""

        def gone(name: str) -> None:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._place(name))

        all_names = list(names)
        self.together(lambda name: self._ask(partial(gone, name), name), all_names)
        for name in all_names:
            self._sizes.pop(name, None)
        self._fs.invalidate_cache()

    def together(self, function: Callable[[T], None], items: Sequence[T]) -> None:
        """Call a function for every item, several at a time. Raises what it raises first."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(function, items))

    def _parts(self, size: int) -> dict[str, int]:
        """How a large file is cut: by itself s3fs holds ten parts of 50 MB at a time."""
        if "s3" not in self._protocols:
            return {}
        return {"chunksize": max(PART_BYTES, -(-size // MOST_PARTS)), "max_concurrency": PARTS_AT_ONCE}

    @property
    def _protocols(self) -> set[str]:
        return {self._fs.protocol} if isinstance(self._fs.protocol, str) else {*self._fs.protocol}

    def _make_folder(self, name: str) -> None:
        if self._protocols & WITH_FOLDERS:
            self._fs.makedirs(self._place(name).rpartition("/")[0], exist_ok=True)

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _ask(self, call: Callable[[], R], name: str, size: int = 0) -> R:
        patience = Patience(timeout=Patience.timeout + size / LEAST_BYTES_A_SECOND)
        return patiently(call, f"{self.url}/{name}", patience)
