"""A file's hash, computed once a host however many processes open the file."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mindvl_data.shards.writing import file_sha256

# A hash is remembered for a day: a disk that rots is found by the next day's run.
REMEMBERED_SECONDS = 24 * 3600.0
# A file younger than its file system's clock is fine may change again without a trace.
RACY_SECONDS = 2.0
# Its time says when old notes were last looked for.
SWEPT = "swept"


def sha256_once(path: Path) -> str:
    """The SHA-256 of a file, from this host's notes where the file is still the one that was hashed.

    A note holds for a file of the same place, inode, size and times of change (of content and of inode, which
    no program can set back), for a day. Processes that ask at once wait for one that hashes.
    """
    stat = path.stat()
    if time.time() - stat.st_ctime < RACY_SECONDS:
        return file_sha256(path)
    folder = _notes()
    if folder is None:
        return file_sha256(path)
    identity = [os.path.realpath(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    name = hashlib.sha256("\0".join(map(str, identity)).encode()).hexdigest()
    with locked(folder / name) as note:
        known = note.read()
        if len(known) == 64 and time.time() - os.fstat(note.fileno()).st_mtime < REMEMBERED_SECONDS:
            return known.decode()
        found = file_sha256(path)
        note.seek(0)
        note.truncate()
        note.write(found.encode())
    _forget(folder)
    return found


@contextmanager
def locked(path: Path) -> Iterator[IO[bytes]]:
    """The file at `path`, made if it is not there, held against every other process; freed however this one ends."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _notes() -> Path | None:
    """This user's folder of notes, on this host and gone with its reboot; None where nobody can be trusted."""
    folder = Path(tempfile.gettempdir()) / f"mindvl-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        stat = folder.lstat()
        if stat.st_uid != os.getuid() or stat.st_mode & 0o077:
            return None
    except OSError:
        return None
    return folder


def _forget(folder: Path) -> None:
    """Removes notes that hold no more, once a day: there may be very many, and each file hashed adds one."""
    swept = folder / SWEPT
    with suppress(FileNotFoundError):
        if time.time() - swept.stat().st_mtime < REMEMBERED_SECONDS:
            return
    swept.touch(mode=0o600)
    for note in folder.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - note.stat().st_mtime > 2 * REMEMBERED_SECONDS:
                note.unlink()
