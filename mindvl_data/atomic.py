"""Files and folders that appear whole or not at all: written under a name of this process's own, flushed to
the disk and renamed.

The name is of one process alone: a task of a lost node may still be at work when another does it again, and neither
may write into the other's file. Whoever is done first or last, the bytes are the same.
"""

from __future__ import annotations

import errno
import functools
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What is called so is unfinished; a build removes what killed ones left.
PARTIAL = "*.partial"


def partial_of(path: Path) -> Path:
    """The name under which this process writes a file or folder until it is whole; nothing is there."""
    partial = path.with_name(f"{path.name}.{_own(os.getpid())}.partial")
    remove(partial)
    return partial


def publish(partial: Path, path: Path) -> None:
    """Flush to the disk, and rename. Where another process has published the same folder meanwhile, that one stays."""
    for each in tree(partial):
        sync(each)
    try:
        partial.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        remove(partial)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk: a rename is only there when its folder is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tree(path: Path) -> Iterator[Path]:
    """A file, or a folder after all that is in it. Links are not followed."""
    if path.is_dir() and not path.is_symlink():
        yield from (each for each in path.rglob("*") if not each.is_symlink())
    yield path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name to write under, published when the body ends and removed when it fails."""
    partial = partial_of(path)
    try:
        yield partial
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise
    publish(partial, path)


def write_text(path: Path, text: str) -> None:
    """A small file in UTF-8."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove(path: Path) -> None:
    """A file, a folder with all that is in it, or nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@functools.cache
def _own(pid: int) -> str:
    """A word of this process alone, among all on all nodes."""
    return secrets.token_hex(4)
