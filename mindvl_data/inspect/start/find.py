"""Which files belong together: those of a folder whose paths differ in numbers alone are one source."""

from __future__ import annotations

import fnmatch
import glob
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mindvl_data.errors import UserError
from mindvl_data.inspect.peek import DATA_FILES
from mindvl_data.sources import SourceError
from mindvl_data.sources.files import WILDCARD, store_of
from mindvl_data.sources.folders import INDEXES, data_files

COMPRESSED = (".gz", ".zst", ".zstd", ".bz2", ".br", ".snappy")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")
NUMBER = re.compile(r"\d+")
# More groups of one kind in a folder are named by no numbers, but by hashes or titles: they are one source.
MOST_GROUPS = 5
# More files than these are not listed one by one in a recipe.
MOST_LISTED = 100
HELD_OUT = {"test", "val", "valid", "validation", "dev", "eval", "testa", "testb", "minival"}
# What a build leaves in its folder, and a packed set in its own.
OURS = ("build.json", "manifest.json.sha256")


@dataclass(frozen=True)
class Found:
    """Files that are one source.

    patterns: paths or globs that match these files and no others. first: the file that is looked at. bytes: of all.
    root: the path that a person gave.
    """

    patterns: tuple[str, ...]
    first: str
    files: int
    bytes: int
    root: str

    @property
    def shown(self) -> str:
        return ", ".join(self.patterns[:3]) + (" …" if len(self.patterns) > 3 else "")


Unused = list[tuple[str, str]]


def groups(paths: Sequence[str]) -> tuple[list[Found], Unused]:
    """The groups of files below paths, and what is left out, with its reason. Raises UserError for one not there."""
    found: dict[tuple[str, ...], Found] = {}
    unused: Unused = []
    for path in paths:
        for group in _below(path, unused):
            found.setdefault(group.patterns, group)
    return list(found.values()), _summed_up(unused)


def _summed_up(unused: Unused) -> Unused:
    """One line for many files of a folder that are left out for the same reason."""
    alike: dict[tuple[str, str], list[str]] = {}
    for path, why in unused:
        alike.setdefault((posixpath.dirname(path), why), []).append(path)
    return [
        (paths[0], why if len(paths) == 1 else f"and {len(paths) - 1:,} more there: {why}")
        for (_, why), paths in alike.items()
    ]


def _below(path: str, unused: Unused) -> Iterator[Found]:
    fs, place = store_of(path if "://" in path else os.path.abspath(path))
    try:
        kind = str(fs.info(place)["type"])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        kind = "glob" if WILDCARD.search(path) else "missing"
    except Exception as error:
        raise UserError(f"{path}: cannot be looked at ({type(error).__name__}: {error})") from error
    if kind == "missing":
        raise UserError(f"{path}: there is no such file or folder")
    if kind == "glob":
        yield _of_glob(path, fs, place)
    elif kind == "file":
        yield Found((path,), path, 1, int(fs.size(place) or 0), path)
    else:
        yield from _of_folder(path.rstrip("/") or path, fs, place, unused)


def _of_glob(path: str, fs: Any, place: str) -> Found:
    matched = sorted(fs.glob(place))
    if not matched:
        raise UserError(f"{path}: no file matches")
    sizes = sum(int(fs.size(item) or 0) for item in matched)
    first = matched[0] if "://" not in path else fs.unstrip_protocol(matched[0])
    return Found((path,), first, len(matched), sizes, path)


def _of_folder(path: str, fs: Any, place: str, unused: Unused) -> Iterator[Found]:
    pictures, data = 0, dict[str, int]()
    for folder, names in walk(path, fs, place):
        if any(name in names for name in OURS):
            unused.append((folder, "a folder that a build has made"))
        elif (index := next((name for name in INDEXES if name in names), None)) and index != "dataset_dict.json":
            yield from _self_described(folder, fs, unused)
        else:
            pictures += sum(name.lower().endswith(PICTURES) for name in names)
            data |= {f"{folder}/{name}": size for name, size in names.items() if is_data(name)}
    yield from _grouped(path, data, unused)
    if not data and pictures:
        why = (
            f"{pictures:,} pictures, and no file that says what they show: put its text beside each (a.txt "
            'for a.png), or write a JSON Lines file with {"image": "PATH", "caption": "TEXT"} a line'
        )
        unused.append((path, why))
    elif not data and not unused:
        unused.append((path, f"no file in it ends in {', '.join(DATA_FILES)}"))


def is_data(name: str) -> bool:
    stem, end = posixpath.splitext(name)
    return not name.startswith(".") and (stem if end in COMPRESSED else name).endswith(DATA_FILES)


def walk(path: str, fs: Any, place: str) -> Iterator[tuple[str, dict[str, int]]]:
    """Folders, as a person would write them, with the sizes of their files; what is hidden or a build's is left out."""
    if "://" in path:
        folders: dict[str, dict[str, int]] = {}
        for item, info in fs.find(place, detail=True).items():
            relative = posixpath.relpath(item, place)
            folder = posixpath.join(path, posixpath.dirname(relative)).rstrip("/")
            folders.setdefault(folder, {})[posixpath.basename(item)] = int(info["size"] or 0)
        yield from sorted(folders.items())
        return
    for folder, below, names in os.walk(path):
        # Energon's list of files lies in a hidden folder.
        energon = "split.yaml" if (Path(folder) / ".nv-meta" / "split.yaml").is_file() else None
        described = energon or any(name in INDEXES or name in OURS for name in names if name != "dataset_dict.json")
        below[:] = [] if described else sorted(name for name in below if not name.startswith("."))
        there = [name for name in sorted(names) if os.path.exists(f"{folder}/{name}")]
        sizes = {name: os.stat(f"{folder}/{name}").st_size for name in there}
        yield folder, sizes | ({".nv-meta/split.yaml": 0} if energon else {})


def _self_described(folder: str, fs: Any, unused: Unused) -> Iterator[Found]:
    place = store_of(folder if "://" in folder else os.path.abspath(folder))[1]
    try:
        files = [listed.path for listed in data_files(fs, place)]
    except SourceError as error:
        unused.append((folder, str(error)))
        return
    if files:
        first = files[0] if "://" not in folder else fs.unstrip_protocol(files[0])
        total = sum(int(fs.size(item) or 0) for item in files)
        yield Found((folder,), first, len(files), total, folder)


def _grouped(root: str, data: dict[str, int], unused: Unused) -> Iterator[Found]:
    """Files by what their paths have in common but numbers; what is beside the data and no data of its own is left."""
    tars = {path.removesuffix(".tar") for path in data if path.endswith(".tar")}
    alike: dict[tuple[str, ...], list[str]] = {}
    for path in sorted(data):
        stem, end = _split(path)
        if end != ".tar" and tars & {stem, stem.rpartition("_")[0]}:
            unused.append((path, "what is known of the tar beside it; `scores: {by: joined}` reads its columns"))
        elif _held_out(posixpath.relpath(path, root)):
            unused.append((path, "by its name a set to evaluate on; `evaluations` and `decontaminate` keep it out"))
        else:
            alike.setdefault((root + NUMBER.sub("*", stem[len(root) :]), end), []).append(path)
    many = Counter((posixpath.dirname(stem), end) for stem, end in alike)
    merged: dict[tuple[str, ...], list[str]] = {}
    for (stem, end), paths in alike.items():
        folder = posixpath.dirname(stem)
        key = (folder, end) if many[folder, end] > MOST_GROUPS else (stem, end)
        merged.setdefault(key, []).extend(paths)
    for paths in merged.values():
        total = sum(map(data.__getitem__, paths))
        yield Found(_patterns(root, paths, sorted(data)), min(paths), len(paths), total, root)


def _split(path: str) -> tuple[str, str]:
    """A path without its ending, and that: `.jsonl.gz` is one."""
    stem, end = posixpath.splitext(path)
    if end in COMPRESSED:
        stem, inner = posixpath.splitext(stem)
        end = inner + end
    return stem, end


def _held_out(relative: str) -> bool:
    return bool(HELD_OUT & {*re.split(r"[^a-z0-9]+", relative.lower())})


def _patterns(root: str, paths: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """A glob that matches these files alone, or else the files themselves."""
    first, end = paths[0], _split(paths[0])[1]
    if len(paths) == 1:
        return (first,)
    folders = {posixpath.dirname(path) for path in paths}
    options = [_numbered(root, first, sign) for sign in ("*", "[0-9]*")]
    options += [f"{glob.escape(folder)}/*{end}" for folder in folders if len(folders) == 1]
    for option in options:
        # A brace in a name cannot be told from a range.
        if "{" not in first and _matches(option, others) == [*paths]:
            return (option,)
    if len(paths) > MOST_LISTED:
        raise UserError(f"{posixpath.commonpath(paths)}: no glob matches {first} and its like alone: name one yourself")
    return tuple(paths)


def _numbered(root: str, path: str, sign: str) -> str:
    """A glob with a sign for each number below the root."""
    return glob.escape(root) + sign.join(map(glob.escape, NUMBER.split(path[len(root) :])))


def _matches(pattern: str, paths: Sequence[str]) -> list[str]:
    """The files that a glob matches: a star stops at a slash."""
    parts = pattern.split("/")
    return [
        path
        for path in paths
        if len(path.split("/")) == len(parts)
        and all(fnmatch.fnmatchcase(one, part) for one, part in zip(path.split("/"), parts, strict=True))
    ]
