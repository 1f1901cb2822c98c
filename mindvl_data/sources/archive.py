"""The samples of a tar by the keys of their members, which need not lie side by side.

A local file's headers are walked before all else, and then its samples are read. A store's file comes through once:
a sample ends where the next key begins, and only a tar in which a key comes again is gone through a second time.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mindvl_data.sources import Piece, Scattered
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.mapped import FileBytes
from mindvl_data.sources.ranged import Ranged
from mindvl_data.sources.tar import Gap, Member, Run, walk
from mindvl_data.sources.unpacked import tar_bytes
from mindvl_data.tables.schema import Drop

# As many samples are put together at a time, and so many bytes of the archive stay mapped.
CHUNK_GROUPS = 8192
MAPPED_BYTES = 32 << 20


class Group(NamedTuple):
    """The members of one key: suffix (`jpg`, `0.png`), place and size of each, in the archive's order."""

    key: str
    suffixes: tuple[str, ...]
    offsets: list[int]
    sizes: list[int]

    @property
    def members(self) -> dict[str, tuple[int, int]]:
        """Place and size by suffix."""
        return dict(zip(self.suffixes, zip(self.offsets, self.sizes, strict=True), strict=True))


# A key, and its members or what is wrong with them.
Found: TypeAlias = tuple[str, Group | Drop]


def samples_of(file: SourceFile) -> tuple[FileBytes, str | None, Iterator[Found]]:
    """A tar's bytes, the uri to find ranges of them again (None of a compressed one), and its samples, in the order in
    which their keys first come; of a piece those that begin in it.

    What is broken and has no member that could be read comes last. The iterator raises Scattered where a stream does
    not do.
    """
    data, uri = tar_bytes(file)
    if isinstance(data, Ranged) and file.one_pass:
        return data, uri, _streamed(data, file.path)
    return data, uri, _found(data, file)


def _found(data: FileBytes, file: SourceFile) -> Iterator[Found]:
    archive = Archive(data, file.path)
    for group in archive.groups(file.piece):
        yield group.key, archive.broken.get(group.key) or group
    if file.piece is None or file.piece.stop == file.size:
        yield from archive.without_members().items()


def _streamed(data: Ranged, path: str) -> Iterator[Found]:
    """The samples as they come by. Raises Scattered at the end when a key came again, or was found broken too late."""
    broken: dict[str, Drop] = {}
    hashes = array("q")
    for group in _stretches(_runs(data, path, broken)):
        hashes.append(hash(group.key))
        yield group.key, broken.pop(group.key, group)
    if len(np.unique(np.frombuffer(hashes, np.int64))) < len(hashes) or any(hash(key) in hashes for key in broken):
        raise Scattered(f"{path}: a key comes again behind others; read it in two passes")
    yield from broken.items()


def _stretches(runs: Iterator[Run]) -> Iterator[Group]:
    """Members of one key that follow each other."""
    key: str | None = None
    suffixes, offsets, sizes = list[str](), list[int](), list[int]()
    for run in runs:
        for name, offset, size in zip(run.names, run.offsets.tolist(), run.sizes.tolist(), strict=True):
            mine, suffix = split_name(name)
            if mine != key:
                if key is not None:
                    yield Group(key, tuple(suffixes), offsets, sizes)
                key, suffixes, offsets, sizes = mine, [], [], []
            suffixes.append(suffix.lower())
            offsets.append(offset)
            sizes.append(size)
    if key is not None:
        yield Group(key, tuple(suffixes), offsets, sizes)


def _runs(data: FileBytes, path: str, broken: dict[str, Drop]) -> Iterator[Run]:
    """Members in runs, links too; what is amiss goes into `broken` under the key that it befalls."""
    key, damage, any_yet = "", None, False
    for found in walk(data.data):
        if isinstance(found, Member):
            if found.kind == "other":
                continue
            if found.kind == "link":
                drop = Drop("malformed_record", f"{found.name} is a link, not a file")
                broken.setdefault(split_name(found.name)[0], drop)
            found = Run([found.name], np.array([found.offset]), np.array([found.size]))
        if isinstance(found, Run):
            if damage:
                broken.setdefault(split_name(found.names[0])[0], damage)
                damage = None
            yield found
            key, any_yet = split_name(found.names[-1])[0], True
        elif isinstance(found, Gap):
            damage = _damage(found, path, len(data.view), any_yet)
            broken[key] = damage
        else:
            open_end = "behind this sample, without the end mark of a tar: more of it may have followed"
            where = open_end if found.name is None else "within this sample"
            drop = Drop("truncated_archive", f"{path} ends {where}")
            broken[key if found.name is None else split_name(found.name)[0]] = drop


def _damage(gap: Gap, path: str, end: int, any_yet: bool) -> Drop:
    if not any_yet and gap.stop == end:
        return Drop("malformed_record", f"{path} is no tar archive")
    if gap.stop == end:
        return Drop("truncated_archive", f"{path} ends in the middle of a header")
    return Drop("damaged_archive", f"{path} cannot be read from byte {gap.start} to {gap.stop}")


class Archive:
    """The groups of an archive whose headers have been walked.

    Arrays and the bytes of the keys are kept, not an object a member: an archive has millions of them. Members of
    one key that follow each other are a stretch; nearly always a key has one.
    """

    def __init__(self, data: FileBytes, path: str) -> None:
        self.mapped = data
        self.broken: dict[str, Drop] = {}
        self._suffixes = _Numbers()
        # Of every member: its suffix, where it lies and how long it is. Of every stretch: its key's hash, its length.
        self._suffix, self._offset, self._size = array("i"), array("q"), array("q")
        self._hash, self._length = array("q"), array("i")
        self._keys: list[bytes] = []
        self._walk(path)

    def _walk(self, path: str) -> None:
        key, seen = "", 0
        for run in _runs(self.mapped, path, self.broken):
            key = self._add(run, key)
            end = int(run.offsets[-1])
            if end > seen + MAPPED_BYTES:
                self.mapped.forget(seen, end)
                seen = end
        if seen:
            self.mapped.forget(seen, len(self.mapped.view))

    def _add(self, run: Run, last: str) -> str:
        """Add a run that follows a member of the key `last`; the key of its own last member."""
        keys, suffixes = zip(*map(split_name, run.names), strict=True)
        self._suffix.extend([self._suffixes[suffix] for suffix in suffixes])
        self._offset.frombytes(run.offsets.tobytes())
        self._size.frombytes(run.sizes.tobytes())
        starts = [i for i, (key, before) in enumerate(zip(keys, (last, *keys), strict=False)) if key != before]
        if not self._length:
            starts = [0, *starts] if not starts or starts[0] else starts
        first = starts[0] if starts else len(keys)
        if first:
            self._length[-1] += first
        if starts:
            self._length.extend([stop - start for start, stop in itertools.pairwise([*starts, len(keys)])])
            stretches = [keys[start] for start in starts]
            self._hash.extend(map(hash, stretches))
            self._keys.append("\0".join(stretches).encode("utf-8", "surrogatepass"))
        return str(keys[-1])

    def groups(self, piece: Piece | None = None) -> Iterator[Group]:
        """Every key with its members, in the order in which the keys first come; of a piece those that begin in it."""
        columns = [np.frombuffer(column, column.typecode) for column in (self._suffix, self._offset, self._size)]
        lengths = np.frombuffer(self._length, np.int32).astype(np.int64)
        keys, order = self._stretch_keys(), None
        first = self._first_stretches()
        if first is not None:
            # A stable order by the first stretch of each member's key brings its members together.
            order = np.argsort(np.repeat(first, lengths), kind="stable")
            keys = itertools.compress(keys, first == np.arange(len(first)))
            lengths = np.bincount(first, lengths, len(first)).astype(np.int64)
            lengths = lengths[lengths > 0]
        starts, seen = np.concatenate([[0], np.cumsum(lengths)]), 0
        if piece and len(lengths):
            begin = columns[1][starts[:-1] if order is None else order[starts[:-1]]]
            first_group, end_group = np.searchsorted(begin, [piece.start, piece.stop]).tolist()
            keys = itertools.islice(keys, first_group, end_group)
            lengths, starts = lengths[first_group:end_group], starts[first_group : end_group + 1]
        for number in range(0, len(lengths), CHUNK_GROUPS):
            bounds = starts[number : number + CHUNK_GROUPS + 1]
            rows = slice(bounds[0], bounds[-1]) if order is None else order[bounds[0] : bounds[-1]]
            suffix, offset, size = (column[rows].tolist() for column in columns)
            suffix = [*map(self._suffixes.texts.__getitem__, suffix)]
            for start, stop in itertools.pairwise((bounds - bounds[0]).tolist()):
                yield Group(next(keys), tuple(suffix[start:stop]), offset[start:stop], size[start:stop])
            if offset[-1] > seen + MAPPED_BYTES:
                self.mapped.forget(seen, offset[-1])
                seen = offset[-1]

    def without_members(self) -> dict[str, Drop]:
        """What is broken and has no member that could be read."""
        read = {key for key in self._stretch_keys() if key in self.broken} if self.broken else set()
        return {key: drop for key, drop in self.broken.items() if key not in read}

    def _stretch_keys(self) -> Iterator[str]:
        for keys in self._keys:
            yield from keys.decode("utf-8", "surrogatepass").split("\0")

    def _first_stretches(self) -> NDArray[np.int64] | None:
        """For every stretch the first one of its key; None where every key has one."""
        _, number, counts = np.unique(np.frombuffer(self._hash, np.int64), return_inverse=True, return_counts=True)
        if not np.any(counts > 1):
            return None
        # Two keys may share a hash: those that seem to come again are compared.
        again, seen = counts[number] > 1, dict[str, int]()
        first = np.arange(len(number))
        keys = itertools.compress(self._stretch_keys(), again)
        first[again] = [seen.setdefault(key, i) for i, key in zip(np.flatnonzero(again).tolist(), keys, strict=True)]
        return first


class _Numbers(dict[str, int]):
    """A number for every suffix, given when it first comes; `texts` leads back, in lower case."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def __missing__(self, suffix: str) -> int:
        self.texts.append(suffix.lower())
        self[suffix] = len(self)
        return self[suffix]


def split_name(name: str) -> tuple[str, str]:
    """`a/b.0.png` is the member `0.png` of the sample `a/b`."""
    start = name.find(".", name.rfind("/") + 1)
    return (name[:start], name[start + 1 :]) if start >= 0 else (name, "")
