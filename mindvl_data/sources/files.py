"""The files of a source: globs and brace ranges over any fsspec store, fingerprints, and safe image paths."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import fsspec

from mindvl_data.sources import Image, ImageBytes, SourceError, Unusable
from mindvl_data.sources.folders import data_files
from mindvl_data.sources.mapped import map_image

BRACES = re.compile(r"\{([^{}]*)\}")
WILDCARD = re.compile(r"[*?\[]")
SPECIAL = re.compile(r"[*?\[{](?<!\$\{)")
VARIABLE = re.compile(r"\$\{(\w+)\}")
WHOLE_HASH_BYTES = 16 << 20
WINDOW_BYTES = 64 << 10
WINDOWS = 16


# What is wrong with a path, not with the disk or the network.
NOT_THERE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENXIO}


class ImageFile(NamedTuple):
    """What `stat` says of a local image that a record names by its path; size -1: it is not there."""

    size: int
    mtime_ns: int


MISSING = ImageFile(-1, 0)


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

    def image(self, path: str) -> tuple[ImageBytes, ImageFile | None]:
        """The image that a record names by a path, and what to know it by again (None in a store).

        Raises Unusable outside the root or when missing.
        """
        fs, root = self._images
        name = posixpath.normpath(path)
        if posixpath.isabs(name) or name.split("/", 1)[0] == ".." or "\0" in name or "://" in path:
            raise Unusable("outside_root", f"{path!r} is not a path within {self.image_uri}")
        uri, place = posixpath.join(self.image_uri, name), posixpath.join(root, name)
        local = "file" in fs.protocol
        if local and not _within(place, root):
            raise Unusable("outside_root", f"{path!r} is a link out of {self.image_uri}")
        try:
            if not local:
                return ImageBytes(fs.cat_file(place), uri), None
            data, found = map_image(place)
            return ImageBytes(data, uri), ImageFile(found.st_size, found.st_mtime_ns)
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in NOT_THERE and not _is_absence(error):
                raise SourceError(f"{uri}: cannot be read ({error}); run the same command again") from error
            raise Unusable("missing_image", f"{path!r} does not exist in {self.image_uri}") from error

    def opened(self, image: Image) -> ImageBytes:
        """An image of a record, wherever it lies. Raises Unusable."""
        return image if isinstance(image, ImageBytes) else self.image(image.path)[0]

    def image_file(self, path: str) -> ImageFile | None:
        """What `stat` says of an image now, as `image` said of it then."""
        fs, root = self._images
        if "file" not in fs.protocol:
            return None
        try:
            found = os.stat(posixpath.join(root, posixpath.normpath(path)))
        except (OSError, ValueError):
            return MISSING
        return ImageFile(found.st_size, found.st_mtime_ns)


def _is_absence(error: OSError) -> bool:
    return isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError))


def _within(place: str, root: str) -> bool:
    """Whether a local path stays below its root when every link in it is followed."""
    if os.path.islink(place):
        real = os.path.realpath(place)
    else:
        real = posixpath.join(_real_folder(posixpath.dirname(place)), posixpath.basename(place))
    return real.startswith(_real_folder(root).rstrip("/") + "/")


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    # Images share folders, and resolving one takes longer than reading an image's header.
    return os.path.realpath(path)


class FingerprintCache:
    """Fingerprints by place, size and time of change, so that an unchanged file is not read again.

    path: where they are kept; None for a look that keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._old: dict[str, str] = json.loads(path.read_text()) if path and path.exists() else {}
        self._new: dict[str, str] = {}

    def get(self, fs: Any, path: str, info: dict[str, Any]) -> str:
        stamp = json.dumps([path, info["size"], str(info.get("mtime", info.get("LastModified", "")))])
        self._new[stamp] = self._old.get(stamp) or fingerprint(fs, path, info)
        return self._new[stamp]

    def save(self) -> None:
        if self._path is None:
            return
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
        found = list(_found(fs, path))
        if not found:
            what = "no file matches" if WILDCARD.search(path) else "no such file"
            raise SourceError(f"{hidden(option, shown)}: {what} (relative to the recipe's folder)")
        for item in found:
            path = hidden(posixpath.relpath(item, root), shown)
            yield _describe(fs, item, path, posixpath.join(uri_root, path), images, folder, cache)


def _found(fs: Any, path: str) -> Iterator[str]:
    """The files of a path: those of a glob in sorted order; of a data set's folder those that it lists."""
    for item in sorted(fs.glob(path)) if WILDCARD.search(path) else [path.rstrip("/")]:
        if fs.isfile(item):
            yield item
        elif fs.isdir(item):
            yield from data_files(fs, item)


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
