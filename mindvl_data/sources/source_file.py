"""One file of a source, read from wherever it lies, and the images that its records name, all below one root."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import IO, Any, cast
from urllib.parse import unquote

from fsspec.implementations.local import LocalFileSystem

from mindvl_data.media import leads_out
from mindvl_data.shards import Patience, StoreError, patiently
from mindvl_data.shards import store_of as web_or_store_of
from mindvl_data.sources import Image, ImageBytes, ImagePath, Piece, SourceError, Unusable, Video
from mindvl_data.sources.fingerprint import MISSING, ImageFile, Listings, local_image, stamp, stored_image
from mindvl_data.sources.mapped import FileBytes, Mapped, map_file, map_image
from mindvl_data.sources.ranged import Ranged, RangedFile, copied, gives_ranges

LOCAL = LocalFileSystem()
HUB_SNAPSHOT = re.compile(r"(.*/(?:datasets|models|spaces)--[^/]+)/snapshots/[^/]+/")
# A look at a name, which is soon said to have failed: most often it is a name that is wrong.
LOOKS = Patience(tries=4, pause=0.25)
# What is wrong with a path, not with the disk or the network.
NOT_THERE = {errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.ENXIO}


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    place: where it is read (absolute path or URL). uri: how outputs name it: relative to the recipe's folder
    or a URL, `${VAR}` unresolved. path: relative to the source's root, the part that sample ids use.
    image_root: the folder that image paths inside it are relative to and must not leave. piece: the part of it that
    is read, None for all. excluded: keys of samples in it that its data set excludes. one_pass: whether a stream of it
    may be taken to need no second look (see Scattered). stamp, listings: see there.
    """

    place: str
    uri: str
    path: str
    size: int
    fingerprint: str
    image_root: str
    image_uri: str
    stamp: str = ""
    piece: Piece | None = None
    excluded: tuple[str, ...] = ()
    one_pass: bool = True
    listings: Listings = field(default_factory=Listings, compare=False, repr=False)

    @property
    def identity(self) -> str:
        """What is kept of a file is kept under this: with its stamp where the fingerprint does not see all of it."""
        return f"{self.fingerprint} {self.stamp}" if self.fingerprint.startswith("sampled:") else self.fingerprint

    def changed(self) -> bool:
        """Whether the file is no more what it was when it was listed."""
        fs, path = store_of(self.place) if "://" in self.place else (None, self.place)
        try:
            if fs is not None:
                fs.invalidate_cache()
            return stamp(path, fs and asked(fs, lambda: fs.info(path), self.uri)) != self.stamp
        except FileNotFoundError:
            return True

    @cached_property
    def _images(self) -> Any:
        return store_of(self.image_root)

    def open(self, whole: bool = True) -> IO[bytes]:
        """The file to read and to seek in; of one in a store no more than a few chunks are held at a time.

        Args:
            whole: See Ranged.
        """
        fs, path = store_of(self.place)
        if fs is LOCAL:
            return open(path, "rb")
        if not gives_ranges(fs, path, self.size):
            return copied(fs, path)
        return cast("IO[bytes]", RangedFile(Ranged(fs, path, self.size, self.uri, whole)))

    def bytes(self) -> FileBytes:
        """The file's bytes to slice: a map of a local file, ranges of one in a store."""
        fs, path = store_of(self.place)
        if fs is LOCAL:
            return map_file(path)
        if gives_ranges(fs, path, self.size):
            return Ranged(fs, path, self.size, self.uri)
        with copied(fs, path) as file:
            return Mapped(file)

    def image(self, path: str) -> tuple[ImageBytes, ImageFile]:
        """The image that a record names by a path, and what to know it by again.

        Raises Unusable outside the root or when missing.
        """
        fs, root = self._images
        name = self._image_name(path)
        uri, place = posixpath.join(self.image_uri, name), posixpath.join(root, name)
        local = "file" in fs.protocol
        if local and not _within(place, root):
            raise Unusable("outside_root", f"{path!r} is a link out of {self.image_uri}")
        try:
            if not local:
                # Before it is read: what changes in between is then noticed by the next build.
                found = stored_image(patiently(lambda: fs.info(place), uri, Patience()))
                return ImageBytes(patiently(lambda: fs.cat_file(place), uri, Patience()), uri), found
            data, status = map_image(place)
            return ImageBytes(data, uri), local_image(status)
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise SourceError(str(error)) from error
            raise Unusable("missing_image", f"{path!r} does not exist in {self.image_uri}") from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in NOT_THERE and not _is_absence(error):
                raise SourceError(f"{uri}: cannot be read ({error}); run the same command again") from error
            raise Unusable("missing_image", f"{path!r} does not exist in {self.image_uri}") from error

    def _image_name(self, path: str) -> str:
        """A record's path relative to the folder of the images: absolute ones and `file:` lie below it too.

        Raises Unusable for one that leads out of it.
        """
        fs, root = self._images
        name = unquote(path.removeprefix("file:")) if path.startswith("file:") else path
        name = f"/{name.lstrip('/')}" if path.startswith("file:///") else name
        name = name.removeprefix(f"{self.image_root.rstrip('/')}/").removeprefix(f"{root.rstrip('/')}/")
        name = posixpath.normpath(name)
        # As a store decodes it: `%2e%2e/x` below a URL asks for what lies beside the folder.
        if leads_out(name, in_store="file" not in fs.protocol):
            raise Unusable("outside_root", f"{path!r} is not a path within {self.image_uri}")
        return name

    def opened(self, image: Image) -> ImageBytes | Video:
        """An image of a record, or a clip with all that it is made of, wherever it lies. Raises Unusable."""
        if isinstance(image, Video):
            return image._replace(media=tuple(self._bytes(medium) for medium in image.media))
        return self._bytes(image)

    def _bytes(self, image: ImageBytes | ImagePath) -> ImageBytes:
        return image if isinstance(image, ImageBytes) else self.image(image.path)[0]

    def image_file(self, path: str) -> ImageFile:
        """What an image is known by now, as `image` said of it then. Raises SourceError where a store fails."""
        fs, root = self._images
        try:
            place = posixpath.join(root, self._image_name(path))
            if "file" not in fs.protocol:
                return self.listings.image(fs, place)
            found = os.stat(place)
        except (OSError, ValueError, Unusable) as error:
            if "file" in fs.protocol or not isinstance(error, OSError):
                return MISSING
            raise SourceError(
                f"{self.image_uri}/{path}: cannot be looked at ({error}); run the command again"
            ) from error
        return local_image(found) if stat.S_ISREG(found.st_mode) else MISSING


def _is_absence(error: OSError) -> bool:
    return isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError))


def _within(place: str, root: str) -> bool:
    """Whether a local path stays below its root when every link in it is followed."""
    if os.path.islink(place):
        real = os.path.realpath(place)
    else:
        real = posixpath.join(_real_folder(posixpath.dirname(place)), posixpath.basename(place))
    roots = (_real_folder(root), *_hub_blobs(root))
    return any(real.startswith(f"{folder.rstrip('/')}/") for folder in roots)


def _hub_blobs(root: str) -> Iterator[str]:
    """Where the links of a folder in a Hugging Face hub cache lead: `datasets--org--name/snapshots/…` → `…/blobs`."""
    if match := HUB_SNAPSHOT.match(f"{root.rstrip('/')}/"):
        yield _real_folder(f"{match[1]}/blobs")


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    # Images share folders, and resolving one takes longer than reading an image's header.
    return os.path.realpath(path)


def store_of(place: str) -> tuple[Any, str]:
    """The file system of a place, and its path there. A local path is no URL: `::` in it chains nothing."""
    if "://" not in place:
        return LOCAL, LOCAL._strip_protocol(place)
    try:
        fs, path = web_or_store_of(place)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{place.split('://')[0]}://: {error}") from error
    return fs, path


def asked(fs: Any, look: Callable[[], Any], shown: str) -> Any:
    """What a store says, asked again where it fails. Raises what its library does."""
    if fs is LOCAL:
        return look()

    def once() -> Any:
        try:
            return look()
        except FileNotFoundError as error:
            # fsspec says so of a host that does not answer, too.
            if error.__cause__ is not None and _is_away(error.__cause__):
                raise error.__cause__ from error
            raise

    try:
        return patiently(once, shown, LOOKS)
    except StoreError as error:
        raise (error.__cause__ or error) from error


def _is_away(cause: BaseException) -> bool:
    # OSError: so are the errors of connections in aiohttp, requests and botocore's HTTP clients.
    failing = int(getattr(cause, "status", None) or 0) >= HTTPStatus.INTERNAL_SERVER_ERROR
    return failing or (isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError))
