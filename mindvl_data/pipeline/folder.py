"""The build folder: held against a second build, rid of what killed ones left, and its troubles put into words."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mindvl_data.atomic import PARTIAL, remove
from mindvl_data.errors import BuildError, UserError
from mindvl_data.note import LOCAL_FILE

if TYPE_CHECKING:
    from mindvl_data.recipe import LoadedRecipe
    from mindvl_data.runtime.mirror import Mirror

LOCK = ".lock"
BEAT_SECONDS, SILENT_SECONDS = 5, 20
WORK = ".work"
# A disk with less than this is full: some libraries do not say why a write failed.
FULL = 1 << 20

NO_SPACE = "no space is left there; make some and run the same command again: what was finished is kept"
TROUBLES = {
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: "the quota there is used up; raise it and run the same command again: what was finished is kept",
    errno.EFBIG: "files may not grow so large there; raise the limit (ulimit -f) and run the same command again",
    errno.EROFS: "is read-only; choose another --out",
    errno.EACCES: "may not be written; choose another --out, or mend its permissions",
}


@contextmanager
def opened(out: Path, less_memory: str) -> Iterator[None]:
    """The build folder, made and held. What a killed build left unfinished is removed first.

    Args:
        less_memory: See Engine.

    Raises:
        BuildError: Another build is at work there, or something goes wrong with disk or memory.
    """
    with explained(out, less_memory), held(out):
        sweep(out)
        yield


def sweep(out: Path) -> None:
    """Remove what lost tasks, of this build or of one before, left unfinished."""
    for path in list(out.rglob(PARTIAL)):
        remove(path)


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Raises BuildError when a build is at work there."""
    with _lock_file(out) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{out}: another build is at work there; wait for it or choose another --out"
            raise BuildError(message) from error
        yield


@contextmanager
def held_there(mirror: Mirror) -> Iterator[None]:
    """The same for a build folder in a store: an object says who is at work, and is written anew every few seconds.

    One that nobody writes any more is of a build that is gone, whatever the clocks of the machines say.
    """
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "word": secrets.token_hex(8)}
    _wait_for_silence(mirror)
    ended = threading.Event()

    def beat() -> None:
        for number in itertools.count():
            with suppress(UserError):
                mirror.lost = number > 0 and _holder(mirror).get("word") != mine["word"]
                if mirror.lost:
                    return
                mirror.write(LOCK, json.dumps(mine | {"beat": number}))
            if ended.wait(BEAT_SECONDS):
                return

    beating = threading.Thread(target=beat, daemon=True, name="lock")
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        if not mirror.lost:
            with suppress(UserError):
                mirror.remove([LOCK])


def _wait_for_silence(mirror: Mirror) -> None:
    """Raises BuildError where another build is heard of."""
    first = _holder(mirror)
    if not first or (first.get("host") == socket.gethostname() and not _is_running(first.get("pid"))):
        return
    for _ in range(SILENT_SECONDS):
        time.sleep(1)
        if (now := _holder(mirror)) != first and now:
            raise BuildError(
                f"{mirror.url}: a build on {now.get('host')} (process {now.get('pid')}) is at work there; wait for it "
                "or choose another --out"
            )


def _holder(mirror: Mirror) -> dict[str, Any]:
    """What the lock in a store says; {} where there is none."""
    try:
        found = json.loads(mirror.read(LOCK) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_running(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (OSError, ValueError):
        return False
    return True


def _lock_file(out: Path) -> IO[str]:
    try:
        out.mkdir(parents=True, exist_ok=True)
        return (out / LOCK).open("a")
    except OSError as error:
        if error.errno in TROUBLES:
            raise
        raise BuildError(f"{out}: cannot be written ({error}); choose another --out") from error


def default_folder(loaded: LoadedRecipe) -> Path:
    """build/<recipe name>. Raises BuildError when the build of another recipe lies there."""
    out = (Path("build") / loaded.recipe.name).absolute()
    try:
        note = json.loads((out / LOCAL_FILE).read_text())
        other = Path(note["recipe_folder"]) / note["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return out
    if other != loaded.path and other.is_file():
        raise BuildError(
            f"{out}: holds the build of {other}, which has the same `name`; give {loaded.path} another name, "
            "or choose its folder with --out"
        )
    return out


@contextmanager
def explained(out: Path, less_memory: str) -> Iterator[None]:
    """Errors of disk and memory as a BuildError that says what to do."""
    try:
        yield
    except UserError:
        raise
    except MemoryError as error:
        message = f"out of memory; what was finished is kept: run the same command again, {less_memory}"
        raise BuildError(message) from error
    except OSError as error:
        said = TROUBLES.get(_number(error, out))
        if said is None:
            raise
        if error.errno == errno.EACCES and error.filename and not _is_of(Path(str(error.filename)), out):
            raise BuildError(f"{error.filename}: may not be read; mend its permissions") from error
        where = error.filename if error.errno in (errno.EROFS, errno.EACCES) and error.filename else out
        raise BuildError(f"{where}: {said}") from error


def _is_of(path: Path, out: Path) -> bool:
    """Whether a path is the build folder, in it, or a folder that it is to be made in."""
    path = path.absolute()
    return path.is_relative_to(out) or out.is_relative_to(path)


def _number(error: OSError, out: Path) -> int:
    if error.errno in TROUBLES:
        return int(error.errno)
    # NumPy and Polars pass no number on.
    full = out.is_dir() and shutil.disk_usage(out).free < FULL
    return errno.ENOSPC if full or "os error 28" in str(error) else error.errno or 0
