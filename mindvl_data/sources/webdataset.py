"""WebDataset tars as img2dataset and DataComp write them: members that share a key make one sample."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mindvl_data.sources import (
    Asked,
    Failed,
    Image,
    ImageBytes,
    Piece,
    Record,
    Row,
    Sample,
    Unusable,
    attempt,
    first_text,
    uid_of,
)
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.images import placed
from mindvl_data.sources.json_object import object_fields
from mindvl_data.sources.mapped import Mapped
from mindvl_data.sources.members import FIRST_BYTES, Shape, looked_at, member_bytes, member_text, shape_of
from mindvl_data.sources.pieces import tar_pieces
from mindvl_data.sources.tar import Gap, Member, Run, walk
from mindvl_data.tables.schema import Drop, Part

# As many samples are put together at a time, and so many bytes of the archive stay mapped.
CHUNK_GROUPS = 8192
MAPPED_BYTES = 32 << 20


CAPTION_FIELDS = ("text", "caption", "uid")
EMPTY: Final[Row] = {}


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


class Archive:
    """The groups of an archive. Members of a key need not be adjacent, so the headers are walked before all else.

    Arrays and the bytes of the keys are kept, not an object a member: an archive has millions of them. Members of
    one key that follow each other are a stretch; nearly always a key has one.
    """

    def __init__(self, file: SourceFile) -> None:
        self.mapped = Mapped(file.place)
        self.broken: dict[str, Drop] = {}
        self._path = file.path
        self._suffixes = _Numbers()
        # Of every member: its suffix, where it lies and how long it is. Of every stretch: its key's hash, its length.
        self._suffix, self._offset, self._size = array("i"), array("q"), array("q")
        self._hash, self._length = array("q"), array("i")
        self._keys: list[bytes] = []
        self._walk()

    def _walk(self) -> None:
        key, seen, damage = "", 0, None
        for found in walk(self.mapped.data):
            if isinstance(found, Member):
                if found.kind == "other":
                    continue
                if found.kind == "link":
                    drop = Drop("malformed_record", f"{found.name} is a link, not a file")
                    self.broken.setdefault(split_name(found.name)[0], drop)
                found = Run([found.name], np.array([found.offset]), np.array([found.size]))
            if isinstance(found, Run):
                if damage:
                    self.broken.setdefault(split_name(found.names[0])[0], damage)
                    damage = None
                key = self._add(found, key)
                end = int(found.offsets[-1])
                if end > seen + MAPPED_BYTES:
                    self.mapped.forget(seen, end)
                    seen = end
            elif isinstance(found, Gap):
                damage = self._damage(found)
                self.broken[key] = damage
            else:
                open_end = "behind this sample, without the end mark of a tar: more of it may have followed"
                where = open_end if found.name is None else "within this sample"
                drop = Drop("truncated_archive", f"{self._path} ends {where}")
                self.broken[key if found.name is None else split_name(found.name)[0]] = drop
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

    def _damage(self, gap: Gap) -> Drop:
        if not self._length and gap.stop == len(self.mapped.view):
            return Drop("malformed_record", f"{self._path} is no tar archive")
        if gap.stop == len(self.mapped.view):
            return Drop("truncated_archive", f"{self._path} ends in the middle of a header")
        return Drop("damaged_archive", f"{self._path} cannot be read from byte {gap.start} to {gap.stop}")

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


def read(file: SourceFile, asked: Asked) -> Iterator[Record]:
    """One sample a key: its images, then its caption (`.txt`, else the JSON's `text` or `caption`)."""
    archive, parse = Archive(file), _Parser(file, asked)
    for group in archive.groups(file.piece):
        if drop := archive.broken.get(group.key):
            yield Failed(group.key, drop)
        else:
            yield attempt(group.key, parse, group, archive.mapped)
    if file.piece is None or file.piece.stop == file.size:
        for key, drop in archive.without_members().items():
            yield Failed(key, drop)


class _Parser:
    """A group to a sample, by what the recipe asks for."""

    def __init__(self, file: SourceFile, asked: Asked) -> None:
        self._uri = file.uri
        self._asked = asked
        self._fields = object_fields({*CAPTION_FIELDS, *asked.columns.values(), *asked.keep})

    def __call__(self, key: str, group: Group, mapped: Mapped) -> Sample:
        shape = shape_in(group, mapped)
        _, suffixes, offsets, sizes = group
        asked, row = self._asked, EMPTY
        if shape.json is not None:
            row = asked.renamed(self._fields(member_bytes(mapped, offsets[shape.json], sizes[shape.json])))
        txt = None
        if shape.txt is not None and "caption" not in asked.columns:
            txt = member_text(mapped, offsets[shape.txt], sizes[shape.txt])
        names = ("caption",) if "caption" in asked.columns else ("text", "caption")
        caption = first_text(txt, *map(row.get, names), where="its .txt, and in text and caption of its .json")
        if not shape.images:
            raise Unusable(
                "missing_image", f"none of {', '.join(suffixes)} is a picture; format: text reads text alone"
            )
        view, uri = mapped.view, self._uri
        found: list[Image] = [
            ImageBytes(view[offsets[i] : offsets[i] + sizes[i]], uri, offsets[i]) for i in shape.images
        ]
        parts = placed([Part(0, "caption", None, caption)], len(found))
        unused = tuple(suffixes[i] for i in shape.unknown)
        return Sample(key, parts, found, uid_of(row, "uid"), asked.kept(row) if asked.keep else {}, unused)


def shape_in(group: Group, mapped: Mapped) -> Shape:
    """What the members of a group are. Raises Unusable for two of one name, and for video and sound."""
    shape = shape_of(group.suffixes)
    if shape.unknown:
        ends = [(group.offsets[i], group.offsets[i] + min(group.sizes[i], FIRST_BYTES)) for i in shape.unknown]
        shape = looked_at(shape, group.suffixes, (mapped.data[start:stop] for start, stop in ends))
    if shape.twice:
        raise Unusable("malformed_record", f"two members are called {group.key}.{shape.twice}")
    if shape.unsupported:
        raise Unusable("unsupported_media", f"{group.key}.{shape.unsupported}")
    return shape


read.render = "caption"  # type: ignore[attr-defined]
read.pieces = tar_pieces  # type: ignore[attr-defined]
