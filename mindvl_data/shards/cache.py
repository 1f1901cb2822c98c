"""Files of object stores on the local disk, under a limit, shared by all processes of a host.

A file lies under its SHA-256 and appears by rename once it has that hash, so that what is there is whole. One
process fetches while the others wait for it; a lock ends with the process that held it, however it ended.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import fsspec

from mindvl_data.shards.fetching import Patience, StoreError, patiently
from mindvl_data.shards.once import locked, sha256_once
from mindvl_data.shards.stores import store_of

BLOCK_BYTES = 8 << 20
WAIT_SECONDS = 0.1


def cache_folder() -> Path:
    """Where this user keeps what was fetched: MINDVL_CACHE, or ~/.cache/mindvl."""
    return Path(os.environ.get("MINDVL_CACHE") or Path.home() / ".cache" / "mindvl")


def _max_bytes() -> int:
    return int(float(os.environ.get("MINDVL_CACHE_GB") or 64) * 1e9)


@dataclass(frozen=True)
class ShardCache:
    """folder: MINDVL_CACHE or ~/.cache/mindvl. max_bytes: MINDVL_CACHE_GB or 64 GB; the files used longest ago
    give way (on disk until the last process that has one mapped closes it)."""

    folder: Path = field(default_factory=cache_folder)
    max_bytes: int = field(default_factory=_max_bytes)
    patience: Patience = field(default_factory=Patience)

    def fetch(self, url: str, size: int, sha256: str) -> Path:
        """Where the file at `url` lies here, fetched if it does not. Raises StoreError, naming url and offset."""
        if size > self.max_bytes:
            raise StoreError(
                f"{url}: {size} bytes do not fit into the cache of {self.max_bytes}; set MINDVL_CACHE_GB higher"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{sha256}.file"
        with locked(path.with_suffix(".lock")) as lock:
            # The lock's time of change says when the file was last used: the file's own would make it another.
            os.utime(lock.fileno())
            if path.exists() and path.stat().st_size == size and sha256_once(path) == sha256:
                return path
            path.unlink(missing_ok=True)
            unfinished = path.with_suffix(".partial")
            try:
                self._reserve(unfinished, size)
                self._download(url, unfinished, size, sha256)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            unfinished.rename(path)
        return path

    def _reserve(self, unfinished: Path, size: int) -> None:
        """Makes `unfinished` of its full size, others removed until it fits; waits for room that downloads hold."""
        while True:
            with locked(self.folder / "room.lock"):
                files = self._sizes()
                files.pop(unfinished, None)
                for path in sorted(files, key=_last_used):
                    if sum(files.values()) + size <= self.max_bytes:
                        break
                    if _removed(path):
                        del files[path]
                if sum(files.values()) + size <= self.max_bytes:
                    with unfinished.open("wb") as file:
                        file.truncate(size)
                    return
            time.sleep(WAIT_SECONDS)

    def _sizes(self) -> dict[Path, int]:
        """Bytes of what lies here. What is renamed meanwhile is counted under one name or the other."""
        sizes = {}
        for path in [*sorted(self.folder.glob("*.partial")), *sorted(self.folder.glob("*.file"))]:
            with suppress(FileNotFoundError):
                sizes[path] = path.stat().st_size
        return sizes

    def _download(self, url: str, unfinished: Path, size: int, sha256: str) -> None:
        digest = hashlib.sha256()
        with unfinished.open("r+b") as file:
            for block in blocks(url, size, self.patience):
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise StoreError(f"{url}: altered since it was written (its sha256 differs); copy it again or build again")


def blocks(url: str, size: int, patience: Patience) -> Iterator[bytes]:
    """The `size` bytes at `url`, block by block. Raises StoreError, naming the range that cannot be read."""
    store, place = store_of(url)
    for start in range(0, size, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, size)
        yield patiently(partial(_range, store, place, start, stop), f"{url} [{start}, +{stop - start}]", patience)


def _range(store: fsspec.AbstractFileSystem, place: str, start: int, stop: int) -> bytes:
    data = bytes(store.cat_file(place, start=start, end=stop))
    if len(data) != stop - start:
        raise OSError(f"{len(data)} bytes came instead of {stop - start}")
    return data


def _last_used(path: Path) -> tuple[int, str]:
    lock = path.with_suffix(".lock")
    return lock.stat().st_mtime_ns if lock.exists() else 0, path.name


def _removed(path: Path) -> bool:
    """Removes a file unless a process is fetching or checking it."""
    with open(os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        path.unlink(missing_ok=True)
        return True
