"""Seals of the files and folders that later steps or builds take for finished.

A seal holds sizes and hashes, in a file beside what it seals; they are held against the bytes when these are first
used. A disk that rots, or a copy that was cut short, is found before anything follows from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.runtime import mirror as mirrors
from mindvl_data.runtime.mirror import SEAL
from mindvl_data.shards import file_sha256
from mindvl_data.shards.once import sha256_once

T = TypeVar("T")
R = TypeVar("R")


class DamagedFileError(UserError):
    """A sealed file is not as it was written; a build makes it again.

    Attributes:
        path: What to `discard`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: not as it was written (its size or hash differs); build again to have it made anew")
        self.path = path

    def __reduce__(self) -> tuple[type[DamagedFileError], tuple[Path]]:
        return type(self), (self.path,)


@contextmanager
def sealed(path: Path, beside: Iterable[Path] = ()) -> Iterator[Path]:
    """Like `atomic.whole`, with a seal.

    Args:
        path: A file, or a folder of files.
        beside: Sealed files without which this one is of no use, written before it.
    """
    with atomic.whole(path) as partial:
        yield partial
        files = {_name(file, partial): _facts(file) for file in sorted(atomic.tree(partial)) if file.is_file()}
        names = [os.path.relpath(each, path.parent) for each in beside]
        atomic.write_text(_seal(path), json.dumps({"files": files, "beside": names}))
        if path.is_dir() and not _is_whole(path):
            atomic.remove(path)
    mirror = mirrors.of(path)
    if mirror is not None:
        mirror.sealed(path)


def is_whole(path: Path) -> bool:
    """Whether a sealed file or folder, with all that goes with it, is there in its full size. Reads none of it."""
    mirror = mirrors.of(path)
    if mirror is not None:
        mirror.look(path)
    return _is_whole(path)


def _is_whole(path: Path) -> bool:
    mirror = mirrors.of(path)
    if mirror is not None and mirror.is_away(path):
        return True  # the store has it: it was sent before what it goes with
    try:
        seal = _read(path)
        sizes = all((path / name).stat().st_size == size for name, (size, _) in seal["files"].items())
        return sizes and all(_is_whole(_beside(path, name)) for name in seal["beside"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def checked(path: Path, names: Sequence[str] | None = None) -> Path:
    """The path, once its bytes are known to be those that were written; each is read for it once a day and host.

    Args:
        path: What `sealed` wrote.
        names: The files of a folder that are about to be used; None for all of them.

    Raises:
        DamagedFileError: They are others, or the seal is.
    """
    mirror = mirrors.of(path)
    if mirror is not None:
        mirror.look(path)
    try:
        files: Mapping[str, list[Any]] = _read(path)["files"]
        wanted = {name: files[name] for name in (files if names is None else names)}
        sound = all(_is_sound(_of(path, name), size, sha256) for name, (size, sha256) in wanted.items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(path) from error
    if not sound:
        raise DamagedFileError(path)
    return path


def digest(path: Path) -> str:
    """The SHA-256 that a sealed file had when it was written, without reading it."""
    return str(_read(path)["files"][""][1])


def discard(path: Path) -> None:
    """Removes a sealed file or folder, so that it is made again."""
    atomic.remove(path)
    atomic.remove(_seal(path))
    mirror = mirrors.of(path)
    if mirror is not None:
        mirror.forget(path)


@dataclass(frozen=True)
class OnSoundFiles(Generic[T, R]):
    """A step's function that checks the sealed files among its task's paths before it reads them."""

    function: Callable[[T], R]

    def __call__(self, task: T) -> R:
        """Raises DamagedFileError."""
        for path in _paths(task):
            if _seal(path).exists() and path.exists():
                checked(path)
        return self.function(task)


def _paths(value: object) -> Iterator[Path]:
    """The paths in a task: in its fields, and in lists and mappings of them."""
    if isinstance(value, Path):
        yield value
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _paths(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _paths(each)


def _is_sound(path: Path, size: int, sha256: str) -> bool:
    stat = path.stat()
    return stat.st_size == size and _hash(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) == sha256


@lru_cache(maxsize=1 << 16)
def _hash(path: Path, *identity: int) -> str:
    return sha256_once(path)


def _facts(path: Path) -> tuple[int, str]:
    return path.stat().st_size, file_sha256(path)


def _seal(path: Path) -> Path:
    return path.with_name(path.name + SEAL)


def _beside(path: Path, name: str) -> Path:
    return Path(os.path.normpath(path.parent / name))


def _read(path: Path) -> dict[str, Any]:
    seal: dict[str, Any] = json.loads(_seal(path).read_text(encoding="utf-8"))
    return seal


def _name(file: Path, of: Path) -> str:
    return "" if file == of else file.relative_to(of).as_posix()


def _of(path: Path, name: str) -> Path:
    return path / name if name else path
