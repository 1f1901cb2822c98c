"""The files of a source: found by globs and brace ranges over any fsspec store."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mindvl_data.expanded import VARIABLE
from mindvl_data.media import fixed_folder
from mindvl_data.sources import SourceError
from mindvl_data.sources.braces import braces
from mindvl_data.sources.fingerprint import MISSING, FingerprintCache, ImageFile, Unread, stamp
from mindvl_data.sources.folders import Listed, data_files
from mindvl_data.sources.source_file import LOCAL, NOT_THERE, SourceFile, asked, store_of

__all__ = ["MISSING", "FingerprintCache", "ImageFile", "SourceFile", "Unread", "source_files", "store_of"]

WILDCARD = re.compile(r"[*?\[]")
# What a pattern may mean by more than itself.
SIGNS = re.compile(r"[*?\[{]")
# Stands for a variable while braces are written out.
PLACE = "\1"


def source_files(
    patterns: tuple[str, ...],
    raw: tuple[str, ...],
    images: tuple[str, str] | None,
    folder: Path,
    cache: FingerprintCache,
) -> list[SourceFile]:
    """Every file of a source, sorted by path within each pattern.

    Sample ids use paths relative to the source's one root, the folder that its patterns have in common.

    Args:
        patterns: Resolved.
        raw: The same with `${VAR}` as written, which is what every output shows.
        images: The folder of the images, resolved and as written.
        folder: The recipe's, which patterns are relative to.
        cache: Of fingerprints.

    Raises:
        SourceError: A pattern finds no file.
    """
    root = _common([fixed_folder(pattern) for pattern in patterns])
    shown_root = _common([fixed_folder(pattern) for pattern in raw])
    literal = VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), shown_root)
    if literal != root and SIGNS.search(literal) and _kind(*store_of(_absolute(literal, folder)), shown_root):
        root = literal  # the value of a variable is a name
    files = [
        file
        for resolved, shown in zip(patterns, raw, strict=True)
        for file in _expand(resolved, shown, (root, shown_root), images, folder, cache)
    ]
    return list({file.place: file for file in files}.values())


def _common(folders: list[str]) -> str:
    """The longest folder that all lie in, with its last slash."""
    prefix = posixpath.commonprefix(folders)
    return prefix[: prefix.rfind("/") + 1]


def _expand(
    pattern: str,
    shown: str,
    roots: tuple[str, str],
    images: tuple[str, str] | None,
    folder: Path,
    cache: FingerprintCache,
) -> Iterator[SourceFile]:
    root = store_of(_absolute(roots[0], folder))[1]
    named = VARIABLE.search(shown[len(roots[1]) :])
    for option in _options(pattern, shown, folder):
        fs, path = store_of(_absolute(option, folder))
        found = list(_found(fs, path, folder, shown))
        if not found:
            what = "no file matches" if WILDCARD.search(option) else "no such file"
            named_so = shown if VARIABLE.search(shown) else option
            raise SourceError(f"{named_so}: {what} (relative to the recipe's folder)")
        for item, excluded in found:
            path = posixpath.relpath(item, root)
            # Below the root a variable's value is put back only where the pattern names one.
            path = hidden(path, shown) if named else path
            file = _describe(fs, item, path, roots[1] + path, images, folder, cache)
            yield replace(file, excluded=excluded) if excluded else file


def _options(pattern: str, shown: str, folder: Path) -> Iterator[str]:
    """What a pattern is, its braces written out. A name that exists is that name, whatever signs are in it, and the
    value of a variable is a name wherever something is found so."""
    fs, path = store_of(_absolute(pattern, folder))
    if SIGNS.search(pattern) and _kind(fs, path, shown):
        yield pattern
        return
    values = [os.environ.get(name, "") for name in VARIABLE.findall(shown)]
    if any(map(SIGNS.search, values)):
        literal = [_filled(option, values) for option in braces(VARIABLE.sub(PLACE, shown))]
        if all(_matching(fs, store_of(_absolute(option, folder))[1], str(folder), shown) for option in literal):
            yield from literal
            return
    yield from braces(pattern)


def _filled(option: str, values: Sequence[str]) -> str:
    """A pattern with the values of its variables in their places, as names."""
    first, *rest = option.split(PLACE)
    return first + "".join(glob.escape(value) + after for value, after in zip(values, rest, strict=True))


def _kind(fs: Any, path: str, shown: str) -> str | None:
    """`file`, `directory`, or None for what is not there. Raises SourceError where a store does not say."""
    try:
        return str(asked(fs, lambda: fs.info(path), shown)["type"])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except Exception as error:  # whatever its library raises: the store is away, or refuses us
        if fs is LOCAL and isinstance(error, OSError) and error.errno in NOT_THERE:
            return None
        raise SourceError(f"{shown}: cannot be looked at ({type(error).__name__}: {error})") from error


def _found(fs: Any, path: str, folder: Path, shown: str) -> Iterator[Listed]:
    """The files of a path: those of a glob in sorted order; of a data set's folder those that it lists.

    folder: the recipe's, which is no pattern whatever it is called.
    """
    for item in _matching(fs, path, str(folder), shown):
        kind = _kind(fs, item, shown)
        if kind == "file":
            yield Listed(item)
        elif kind == "directory":
            yield from data_files(fs, item)


def _matching(fs: Any, path: str, folder: str, shown: str) -> list[str]:
    if not WILDCARD.search(path) or _kind(fs, path, shown):
        return [path.rstrip("/")]
    own = os.path.commonpath([path, folder]) if fs is LOCAL else ""
    try:
        found = sorted(asked(fs, lambda: fs.glob(glob.escape(own) + path[len(own) :]), shown))
    except Exception as error:  # as above
        raise SourceError(f"{shown}: cannot be listed ({type(error).__name__}: {error})") from error
    return [item for item in found if _is_shown(item, path, own)]


def _is_shown(item: str, pattern: str, own: str) -> bool:
    """Whether a shell's pattern matches it: what is hidden only where the pattern writes the dot itself.

    own: what of the pattern is no pattern.
    """
    parts = pattern[len(own) :].split("/")
    fixed = next((number for number, part in enumerate(parts) if WILDCARD.search(part)), len(parts))
    dotted = [part for part in parts[fixed:] if part.startswith(".")]
    hidden_parts = [part for part in item[len(own) :].split("/")[fixed:] if part.startswith(".")]
    return all(any(fnmatch.fnmatchcase(part, dots) for dots in dotted) for part in hidden_parts)


def _absolute(place: str, folder: Path) -> str:
    return place if "://" in place else str(folder / place)


def _describe(
    fs: Any, item: str, path: str, uri: str, images: tuple[str, str] | None, folder: Path, cache: FingerprintCache
) -> SourceFile:
    if not _is_text(path):
        raise SourceError(f"{_shown(uri)}: its name is not UTF-8, and no manifest could hold it; rename it")
    try:
        info = asked(fs, lambda: fs.info(item), uri)
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: its folder lists it, and it is not there") from error
    place = item if "file" in fs.protocol else fs.unstrip_protocol(item)
    image_root = posixpath.dirname(place) if images is None else _absolute(images[0], folder)
    image_uri = posixpath.dirname(uri) if images is None else images[1]
    known, seen = cache.get(fs, item, info), stamp(item, info)
    return SourceFile(
        place, uri, path, int(info["size"]), known, image_root, image_uri, stamp=seen, listings=cache.listings
    )


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def hidden(text: str, shown: str) -> str:
    """`text` with the values of the variables in `shown` put back to `${VAR}`."""
    for name in VARIABLE.findall(shown):
        value = os.environ.get(name, "")
        text = text.replace(value, f"${{{name}}}") if value else text
    return text
