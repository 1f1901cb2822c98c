"""Publishing to an object store: finished sets are copied there, each manifest last, and looked at again.

A build works in a local folder (memory maps, locks, renames); a store gets what is finished. An object of a store
appears whole, large ones in parts; a set appears with its manifest, and an older one of its name is withdrawn by
removing its manifest before anything else is touched.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from mindvl_data import atomic
from mindvl_data.errors import BuildError
from mindvl_data.manifest import FILE_NAME
from mindvl_data.shards import file_sha256

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run

NOTE = "uploads.json"
SEAL = f"{FILE_NAME}.sha256"


def upload(run: Run, sets: Sequence[str], url: str) -> list[str]:
    """Copy packed sets, and the files of media/ that they may point into, to `url`; the URLs of the manifests.

    What is there already, as an earlier upload noted it, is not sent again. Raises BuildError.
    """
    try:
        fs, root = fsspec.core.url_to_fs(url.rstrip("/"))
    except (ImportError, ValueError) as error:
        raise BuildError(f"--out {url.split('://')[0]}://: {error}") from error
    fs.invalidate_cache()
    build, media = run.out, _media(run)
    store = _Store(fs, root, url.rstrip("/"), build)
    files = {name: _files(build / name) for name in sets}
    everything = [*(build / "media" / name for name in media), *itertools.chain(*files.values())]
    total = sum(path.stat().st_size for path in everything)
    done = 0

    def sent(path: Path) -> None:
        nonlocal done
        done += path.stat().st_size
        run.progress("upload", done, total)

    run.progress("upload", 0, total)
    try:
        for name in media:
            store.put(build / "media" / name, f"media/{name}")
            sent(build / "media" / name)
        for name, paths in files.items():
            store.withdraw(name, paths)
            for path in paths:
                store.put(path, f"{name}/{path.name}")
                sent(path)
            store.clear(name, paths)
    except OSError as error:
        raise BuildError(f"{url}: {error}; run the same command again: what is there is not sent again") from error
    return [f"{store.url}/{name}/{FILE_NAME}" for name in sets]


def _media(run: Run) -> list[str]:
    if run.recipe.media == "embed":
        return []
    return sorted(path.name for path in run.used if path.parent.name == "media" and path.exists())


def _files(folder: Path) -> list[Path]:
    """A set's files, the manifest after all that it speaks of."""
    last = (SEAL, FILE_NAME)
    rest = [path for path in sorted(folder.iterdir()) if path.name not in (*last, "build.json")]
    return [*rest, *(folder / name for name in last)]


class _Store:
    """The target, and the note of what was sent there: by URL, each object's SHA-256 and how the store names it."""

    def __init__(self, fs: Any, root: str, url: str, build: Path) -> None:
        self._fs, self._root, self.url = fs, root, url
        self._note = build / NOTE
        try:
            self._sent: dict[str, list[str]] = json.loads(self._note.read_text())
        except (OSError, ValueError):
            self._sent = {}
        self._digests: dict[Path, str] = {}

    def put(self, path: Path, name: str) -> None:
        """Send a file and look at what arrived, unless it is there."""
        if self._is_there(path, name):
            return
        self._forget(name)
        self._fs.put_file(str(path), f"{self._root}/{name}")
        self._fs.invalidate_cache()
        info = self._fs.info(f"{self._root}/{name}")
        size = int(info["size"])
        small = path.name in (SEAL, FILE_NAME)
        if size != path.stat().st_size or (small and self._fs.cat_file(f"{self._root}/{name}") != path.read_bytes()):
            self._fs.rm_file(f"{self._root}/{name}")
            raise BuildError(f"{self.url}/{name}: arrived otherwise than it was sent; run the same command again")
        self._sent[f"{self.url}/{name}"] = [self._digest(path), _version(info)]
        self._save()

    def withdraw(self, name: str, paths: Sequence[Path]) -> None:
        """Remove the manifest of another set of this name: without it nobody reads what is about to change."""
        if not all(self._is_there(path, f"{name}/{path.name}") for path in paths):
            for last in (FILE_NAME, SEAL):
                self._remove(f"{name}/{last}")

    def clear(self, name: str, paths: Sequence[Path]) -> None:
        """Remove what an older set of this name had and this one has not."""
        names = {path.name for path in paths}
        for place in self._fs.ls(f"{self._root}/{name}", detail=False):
            if (file := place.rsplit("/", 1)[-1]) not in names:
                self._remove(f"{name}/{file}")

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = file_sha256(path)
        return self._digests[path]

    def _is_there(self, path: Path, name: str) -> bool:
        """Whether the object is the one that an earlier upload made of this file; asked only where there was one."""
        sent = self._sent.get(f"{self.url}/{name}")
        if sent is None or sent[0] != self._digest(path):
            return False
        try:
            return sent[1] == _version(self._fs.info(f"{self._root}/{name}"))
        except FileNotFoundError:
            return False

    def _remove(self, name: str) -> None:
        self._forget(name)
        if self._fs.exists(f"{self._root}/{name}"):
            self._fs.rm_file(f"{self._root}/{name}")
        self._fs.invalidate_cache()

    def _forget(self, name: str) -> None:
        if self._sent.pop(f"{self.url}/{name}", None):
            self._save()

    def _save(self) -> None:
        atomic.write_text(self._note, json.dumps(self._sent))


def _version(info: dict[str, Any]) -> str:
    """How the store tells one content of an object from another."""
    keys = ("ETag", "etag", "content_md5", "md5Hash", "LastModified", "mtime", "created")
    return f"{info['size']} {next((info[key] for key in keys if info.get(key)), '')}"
