"""A build folder in an object store, and the local folder (scratch) that stands for it on every machine.

Whatever a build makes is written into the local folder, by `atomic` and `seals`, and is sent to the store under the
same name as soon as it is whole: a file as one object, a folder as one a file, and its seal last. An object appears
whole or not at all (`objects`), so that what has its seal in the store is whole there.

What a task of a step may rely on, on whichever machine it runs:

- it is a dataclass whose fields name by `Path`, below the build folder, what it reads and what it writes;
- run through `InStore`, every sealed file or folder that it names is there before it begins, brought from the store
  where this machine lacks it or has an older one, and what it seals is in the store before it ends;
- `media/` and `.work/` are kept in the store alone (`sent_away`): they are read there by ranges, under `address`.

The first process (the one that plans) looks into the store where its own folder lacks something, compares what it has
from earlier with the seals there, and alone publishes sets: shards are copied within the store, manifests come last.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from mindvl_data import atomic
from mindvl_data.errors import BuildError
from mindvl_data.runtime import fingerprints
from mindvl_data.runtime.objects import Objects
from mindvl_data.shards import Patience, StoreError, cache_folder, locked
from mindvl_data.shards.cache import blocks

SEAL = ".seal"
# Says of a folder without a seal that all of it was sent.
SENT = ".sent"
# Which files of its folders a build used; and, here alone, which seals are those of the store.
USES, KNOWN, LOCKS = "uses.json", ".seals.json", ".locks"
AWAY = ("media/", ".work/")
# What people look at has these ends, where it has no seal.
LOOKED_AT = (".json", ".parquet", ".sha256", ".md")

T = TypeVar("T")
R = TypeVar("R")


class Mirror(Objects):
    """leads: whether this process plans the build, and looks into the store for what its folder lacks.

    lost: whether another build has taken the store over, because nothing was heard of this one.
    """

    def __init__(self, url: str, folder: Path, leads: bool) -> None:
        super().__init__(url, folder)
        self._leads = leads
        self._versions: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._seen: set[Path] = set()
        self.lost = False

    def start(self) -> None:
        """For the process that plans, once no other does: see what is there, and bring what a build will ask for."""
        self._known = self._noted()
        self.relist()
        self.together(self.look, self.last_used())

    def relist(self) -> None:
        """Look at what is in the store now, and which content each seal has there."""
        self._versions = {name: _version(info) for name, info in self.listed().items() if name.endswith(SEAL)}

    # ------------------------------------------------------------------------------------------ seals

    def sealed(self, path: Path) -> None:
        """Send what was sealed just now."""
        files = _files(json.loads(_seal(path).read_text()), path)
        for file in files:
            self.send(file)
        self.send(_seal(path))
        self._seen.add(path)
        if self.is_away(path):
            atomic.remove(path)

    def look(self, path: Path) -> None:
        """Before the planning process asks for something sealed: the store's, where it is not here as it is there."""
        if not self._leads or path in self._seen:
            return
        name = self.name(_seal(path))
        if name in self._sizes:
            if not _is_here(path) or self._known.get(name) != self._versions.get(name):
                self.bring(path)
                self._known[name] = self._versions.get(name, "")
        elif _seal(path).exists() and not self.is_away(path):
            # Left by a build that was killed before it was sent, or the store has lost it.
            with suppress(OSError, ValueError, KeyError):
                self.sealed(path)
        self._seen.add(path)

    def bring(self, path: Path) -> None:
        """What is sealed under a name in the store, and what goes with it, where it is not the same here."""
        path = _within(path, self.folder)
        raw = None if self.is_away(path) else self.read(self.name(_seal(path)))
        if raw is None:
            return
        for other in json.loads(raw)["beside"]:
            self.bring(_within(path.parent / other, self.folder))
        if _is_same(path, raw):
            return
        # Of threads and processes on this machine one brings it, while the others wait.
        waiting = self.folder / LOCKS
        waiting.mkdir(exist_ok=True)
        with locked(waiting / fingerprints.key(self.name(path))):
            if not _is_same(path, raw):
                self._bring(path, raw)

    def _bring(self, path: Path, raw: bytes) -> None:
        seal = json.loads(raw)
        atomic.remove(_seal(path))
        atomic.remove(path)
        with atomic.whole(path) as unfinished:
            for name, (size, _) in seal["files"].items():
                file = _within(_of(path, name), path)
                self._download(self.address(file), _of(unfinished, name), size)
        atomic.write_text(_seal(path), raw.decode())

    def fetch(self, name: str) -> None:
        """A file that has no seal, as it is in the store now."""
        path = _within(self.folder / name, self.folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.whole(path) as unfinished:
            self._download(self.address(path), unfinished, self._sizes[name])

    def refresh(self, paths: Sequence[Path]) -> None:
        """After a step, wherever its tasks ran: what they name is here again as the store has it."""
        self.relist()
        known = [path for path in dict.fromkeys(paths) if self.name(_seal(path)) in self._sizes]
        self.together(self.bring, known)
        self._seen.update(known)
        names = [self.name(_seal(path)) for path in known]
        self._known |= {name: self._versions[name] for name in names}
        atomic.write_text(self.folder / KNOWN, json.dumps(self._known))

    def _noted(self) -> dict[str, str]:
        """The seals that are here as they are in the store, and how that tells one content of theirs from another."""
        try:
            noted = json.loads((self.folder / KNOWN).read_text())
        except (OSError, ValueError):
            return {}
        return {str(name): str(version) for name, version in noted.items()} if isinstance(noted, dict) else {}

    def last_used(self) -> list[Path]:
        """What the last finished build used of what is sealed; all of it where none was finished."""
        found = json.loads(self.read(USES) or b"{}") if USES in self._sizes else {}
        used = set(found["files"]) if "files" in found else None
        seals = [name.removesuffix(SEAL) for name in self._sizes if name.endswith(SEAL)]
        return [self.folder / name for name in seals if used is None or name.split(".")[0] in used]

    def _download(self, url: str, path: Path, size: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.writelines(blocks(url, size, Patience()))
        if path.stat().st_size != size:
            raise StoreError(f"{url}: {path.stat().st_size} bytes, its seal says {size}; remove it and build again")

    def forget(self, path: Path) -> None:
        """What is damaged is to be made anew, and not to be brought again."""
        self.remove([self.name(_seal(path))])
        self._seen.discard(path)

    def is_away(self, path: Path) -> bool:
        """Whether a path is one of those that only the store keeps: not the notes of shards, which are small."""
        return self.name(path).startswith(AWAY) and path.suffix != ".json"

    # ---------------------------------------------------------------------------------------- no seal

    def send_away(self, path: Path) -> None:
        """Send a file, or a folder of files, and remove it here."""
        if path.is_dir():
            for file in sorted(each for each in path.rglob("*") if each.is_file()):
                self.send(file)
            marker = atomic.partial_of(path)
            marker.write_text("")
            self.send(marker, f"{self.name(path)}{SENT}")
            atomic.remove(marker)
        else:
            self.send(path)
        atomic.remove(path)

    def has(self, path: Path) -> bool:
        """Whether a file or folder that was sent away is there."""
        name = self.name(path)
        return name in self._sizes or f"{name}{SENT}" in self._sizes


# The mirrors of this process, by their folders: as an open file is, a fact of the process and not of a call.
_open: dict[Path, Mirror] = {}


@contextmanager
def opened(url: str, folder: Path, leads: bool = False) -> Iterator[Mirror]:
    """A folder mirrors a store within. Raises BuildError for a store that there is no way to, and StoreError."""
    folder.mkdir(parents=True, exist_ok=True)
    before = _open.get(folder)
    mirror = before or Mirror(url, folder, leads)
    _open[folder] = mirror
    try:
        yield mirror
    finally:
        if before is None:
            del _open[folder]


def of(path: Path) -> Mirror | None:
    """The mirror that a path lies in; None for a folder that is only here."""
    return next((mirror for folder, mirror in _open.items() if path.is_relative_to(folder)), None)


def sent_away(path: Path) -> None:
    """Tell that a file or folder without a seal is finished: in a mirrored folder it is sent, and here no more."""
    mirror = of(path)
    if mirror is not None:
        mirror.send_away(path)


def is_there(path: Path) -> bool:
    """Whether what was finished so is there, here or in the store."""
    mirror = of(path)
    return path.exists() if mirror is None else mirror.has(path)


def address(path: Path) -> str:
    """Where it is read: a path, or a URL in the store."""
    mirror = of(path)
    return str(path) if mirror is None else mirror.address(path)


def scratch_of(url: str) -> Path:
    """The local folder that stands for a store's: the same on every machine where MINDVL_CACHE is the same."""
    return cache_folder() / "builds" / fingerprints.key(url.rstrip("/"))


def looked_at(url: str) -> Path:
    """A build folder in a store as far as people look at it, brought here: samples, scores, ledger, draws, manifests.

    Raises StoreError.
    """
    folder = scratch_of(url)
    with opened(url, folder) as mirror:
        mirror.relist()
        known = [name for name in mirror.names if name.endswith(LOOKED_AT) and "/" in name and name[0] != "."]
        mirror.together(mirror.fetch, [name for name in known if f"{name}{SEAL}" not in mirror.names])
        mirror.together(mirror.bring, [path for path in mirror.last_used() if not mirror.is_away(path)])
    return folder


@dataclass(frozen=True)
class InStore(Generic[T, R]):
    """A step's function for a build folder in a store; see above what its task may rely on."""

    url: str
    folder: Path
    function: Callable[[T], R]

    def __call__(self, task: T) -> R:
        with opened(self.url, self.folder) as mirror:
            if not mirror._leads:
                for path in paths_of(task):
                    if path != self.folder and path.is_relative_to(self.folder):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        mirror.bring(path)
            return self.function(task)


def paths_of(value: object) -> Iterator[Path]:
    """The paths in a task: in its fields, and in lists and mappings of them."""
    if isinstance(value, Path):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from paths_of(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in (*value, *value.values()):
            yield from paths_of(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from paths_of(each)


def _version(info: Mapping[str, Any]) -> str:
    """How a store tells one content of an object from another."""
    names = ("ETag", "etag", "content_md5", "md5Hash", "LastModified", "mtime", "created")
    return f"{info['size']} {next((info[name] for name in names if info.get(name)), '')}"


def _seal(path: Path) -> Path:
    return path.with_name(path.name + SEAL)


def _of(path: Path, name: str) -> Path:
    return path / name if name else path


def _files(seal: Mapping[str, Any], path: Path) -> list[Path]:
    return [_of(path, name) for name in seal["files"]]


def _is_here(path: Path) -> bool:
    try:
        return all(file.exists() for file in _files(json.loads(_seal(path).read_text()), path))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_same(path: Path, raw: bytes) -> bool:
    """Whether what is sealed here is what this seal is of."""
    return _is_here(path) and _seal(path).read_bytes() == raw


def _within(path: Path, folder: Path) -> Path:
    """A path with its `..` resolved by name. Raises BuildError where it leads out: a seal may come from anybody."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    found = Path(*parts)
    if not found.is_relative_to(folder):
        raise BuildError(f"{path}: a seal in the store leads out of the build folder; remove it and build again")
    return found
