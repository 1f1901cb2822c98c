"""The images that a packed set points at: whether they are still there, and, where asked, what they were."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from mindvl_data.manifest.document import Manifest
from mindvl_data.media import Access, MediaError, MediaReader
from mindvl_data.shards import Pack

# The ranges that packs name in a file, (offset, size), and the SHA-256 of each where it is known.
Ranges: TypeAlias = dict[tuple[int, int], bytes | None]
# Runs a function over tasks, anywhere: its results in the order of the tasks.
Runner: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
THREADS = 16
# A task's: it opens each.
FILES_AT_A_TIME = 256
PROBLEMS_SHOWN = 3


class Referenced:
    """Every distinct range of a file that packs name, gathered while they are read."""

    def __init__(self) -> None:
        self._files: dict[str, Ranges] = {}

    def add(self, pack: Pack) -> None:
        for image in pack.images:
            if image.data is None and image.uri is not None:
                place = image.offset or 0, image.size or 0
                self._files.setdefault(image.uri, {})[place] = image.sha256

    def join(self, other: Referenced) -> None:
        for uri, ranges in other._files.items():
            self._files.setdefault(uri, {}).update(ranges)

    def problems(
        self, manifest: Manifest, access: Access, hashed: bool, run: Runner = map
    ) -> Iterator[tuple[str, list[str]]]:
        """Look at every file that the packs name.

        Args:
            manifest: Of the set.
            access: What may be opened.
            hashed: Read every range, in the place of a look at each file's size.
            run: Gives the results of a function over tasks in their order, as an engine does.

        Returns:
            (uri, problems) of every file, one after the other.
        """
        files, folder = sorted(self._files.items()), manifest.build_folder
        starts = range(0, len(files), FILES_AT_A_TIME)
        tasks = [_LookTask(folder, access, hashed, files[start : start + FILES_AT_A_TIME]) for start in starts]
        for found in run(_look, tasks):
            yield from found


@dataclass(frozen=True)
class _LookTask:
    """Some files with the ranges of each, and what may be opened."""

    build_folder: str
    access: Access
    hashed: bool
    files: Sequence[tuple[str, Ranges]]


def _look(task: _LookTask) -> list[tuple[str, list[str]]]:
    def look(item: tuple[str, Ranges]) -> tuple[str, list[str]]:
        # A reader an item: it keeps files open, which threads cannot share.
        with MediaReader(task.build_folder, task.access) as reader:
            return item[0], _read(reader, *item) if task.hashed else _sized(reader, *item)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, task.files))


def _sized(reader: MediaReader, uri: str, ranges: Mapping[tuple[int, int], object]) -> list[str]:
    try:
        size = reader.size(uri)
    except MediaError as error:
        return [_said(error, uri)]
    end = max(offset + length for offset, length in ranges)
    if size < end:
        return [f"{size} bytes, the packs' images reach to byte {end}; restore it or build again"]
    return []


def _read(reader: MediaReader, uri: str, ranges: Ranges) -> list[str]:
    problems = []
    for (offset, size), sha256 in sorted(ranges.items(), key=lambda item: item[0]):
        try:
            reader.read(uri, offset, size, sha256)
        except MediaError as error:
            problems.append(_said(error, uri))
    more = len(problems) - PROBLEMS_SHOWN
    return problems if more <= 0 else [*problems[:PROBLEMS_SHOWN], f"and {more} more of its images"]


def _said(error: MediaError, uri: str) -> str:
    """An error without the name that stands before it already."""
    return str(error).removeprefix(uri).lstrip(": ")
