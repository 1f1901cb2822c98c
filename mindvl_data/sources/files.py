"""The files of a source: globs and brace ranges over any fsspec store, fingerprints, and safe image paths."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import fsspec

from mindvl_data.errors import UserError
from mindvl_data.sources import ImageBytes, Unusable

BRACES = re.compile(r"\{([^{}]*)\}")
WILDCARD = re.compile(r"[*?\[]")
SPECIAL = re.compile(r"[*?\[{](?<!\$\{)")
VARIABLE = re.compile(r"\$\{(\w+)\}")
WHOLE_HASH_BYTES = 16 << 20
WINDOW_BYTES = 64 << 10
WINDOWS = 16


class SourceError(UserError):
    """A source that cannot be read at all; the message says which, where and what to do."""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    place: where it is read (absolute path or URL). uri: how outputs name it: relative to the recipe's folder
    or a URL, `${VAR}` unresolved. path: relative to the source's root, the part that sample ids use.
    image_root: the folder that image paths inside it are relative to and must not leave.
    """

    place: str
    uri: str
    path: str
    size: int
    fingerprint: str
    image_root: str
    image_uri: str

    @cached_property
    def _images(self) -> Any:
        return fsspec.core.url_to_fs(self.image_root)

    def open(self) -> IO[bytes]:
        return fsspec.open(self.place, "rb").open()  # type: ignore[no-any-return]

    def image(self, path: str) -> ImageBytes:
        """The image that a record names by a path. Raises Unusable outside the root or when missing."""
        fs, root = self._images
        name = posixpath.normpath(path)
        if posixpath.isabs(name) or name.startswith("..") or "\0" in name or "://" in path:
            raise Unusable("outside_root", f"{path!r} is not a path within {self.image_uri}")
        place = posixpath.join(root, name)
        if "file" in fs.protocol and not Path(place).resolve().is_relative_to(Path(root).resolve()):
            raise Unusable("outside_root", f"{path!r} is a link out of {self.image_uri}")
        try:
            data = fs.cat_file(place)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError) as error:
            raise Unusable("missing_image", f"{path!r} does not exist in {self.image_uri}") from error
        return ImageBytes(data, posixpath.join(self.image_uri, name))


class FingerprintCache:
    """Fingerprints by place, size and time of change, so that an unchanged file is not read again."""

    def __init__(self, path: Path | None = None) -> None:
        """`path` None: nothing is known, nothing is kept."""
        self._path = path
        self._old: dict[str, str] = json.loads(path.read_text()) if path and path.exists() else {}
        self._new: dict[str, str] = {}

    def get(self, fs: Any, path: str, info: dict[str, Any]) -> str:
        stamp = json.dumps([path, info["size"], str(info.get("mtime", info.get("LastModified", "")))])
        self._new[stamp] = self._old.get(stamp) or fingerprint(fs, path, info)
        return self._new[stamp]

    def save(self) -> None:
        assert self._path is not None
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(self._new))
        partial.rename(self._path)


def source_files(
    patterns: tuple[str, ...], raw: tuple[str, ...], images: str | None, folder: Path, cache: FingerprintCache
) -> list[SourceFile]:
    """Every file of a source, sorted by path within each pattern. Raises SourceError where there is none.

    patterns: resolved; raw: the same with `${VAR}` as written, which is what every output shows.
    """
    files = [
        file
        for resolved, shown in zip(patterns, raw, strict=True)
        for file in _expand(resolved, shown, images, folder, cache)
    ]
    return list({file.place: file for file in files}.values())


def _expand(
    pattern: str, shown: str, images: str | None, folder: Path, cache: FingerprintCache
) -> Iterator[SourceFile]:
    root = fsspec.core.url_to_fs(_absolute(_fixed_folder(pattern), folder))[1]
    uri_root = _fixed_folder(shown)
    for option in braces(pattern):
        fs, path = fsspec.core.url_to_fs(_absolute(option, folder))
        found = sorted(fs.glob(path)) if WILDCARD.search(path) else [path] if fs.isfile(path) else []
        if not found:
            what = "no file matches" if WILDCARD.search(path) else "no such file"
            raise SourceError(f"{hidden(option, shown)}: {what} (relative to the recipe's folder)")
        for item in found:
            path = hidden(posixpath.relpath(item, root), shown)
            yield _describe(fs, item, path, posixpath.join(uri_root, path), images, folder, cache)


def _fixed_folder(pattern: str) -> str:
    """The folder before the first wildcard or brace: the source's root."""
    special = SPECIAL.search(pattern)
    return posixpath.dirname(pattern[: special.start()] if special else pattern)


def _absolute(place: str, folder: Path) -> str:
    return place if "://" in place else str(folder / place)


def _describe(
    fs: Any, item: str, path: str, uri: str, images: str | None, folder: Path, cache: FingerprintCache
) -> SourceFile:
    info = fs.info(item)
    place = item if "file" in fs.protocol else fs.unstrip_protocol(item)
    image_root = posixpath.dirname(place) if images is None else _absolute(images, folder)
    image_uri = posixpath.dirname(uri) if images is None else images
    return SourceFile(place, uri, path, int(info["size"]), cache.get(fs, item, info), image_root, image_uri)


def hidden(text: str, shown: str) -> str:
    """`text` with the values of the variables in `shown` put back to `${VAR}`."""
    for name in VARIABLE.findall(shown):
        value = os.environ.get(name, "")
        text = text.replace(value, f"${{{name}}}") if value else text
    return text


def braces(pattern: str) -> Iterator[str]:
    """`a-{000..002}.tar` and `{x,y}.json` expanded, in the order written; zeros kept."""
    choices = [_choices(body) for body in BRACES.findall(pattern)]
    skeleton = BRACES.sub("\0", pattern).split("\0")
    for picked in itertools.product(*choices):
        yield "".join(itertools.chain.from_iterable(itertools.zip_longest(skeleton, picked, fillvalue="")))


def _choices(body: str) -> list[str]:
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", body):
        first, last = match.groups()
        return [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return body.split(",")


def fingerprint(fs: Any, path: str, info: dict[str, Any]) -> str:
    """`sha256:` of the whole file up to 16 MiB, else `sampled:` over its size and 16 windows; `etag:` in stores."""
    for key in ("ETag", "etag", "content_md5"):
        if info.get(key):
            return f"etag:{str(info[key]).strip(chr(34))}"
    size = int(info["size"])
    with fs.open(path, "rb") as file:
        if size <= WHOLE_HASH_BYTES:
            return f"sha256:{hashlib.sha256(file.read()).hexdigest()}"
        digest = hashlib.sha256(size.to_bytes(8, "little"))
        for number in range(WINDOWS):
            file.seek(number * (size - WINDOW_BYTES) // (WINDOWS - 1))
            digest.update(file.read(WINDOW_BYTES))
    return f"sampled:{digest.hexdigest()}"
