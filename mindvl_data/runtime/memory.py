"""Memory that there is, and that the process holds and nobody uses."""

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import Final

# Its number in malloc.h.
M_MMAP_THRESHOLD: Final = -3
LARGE_BYTES: Final = 1 << 20
# How a container's limit is written, of the second and the first version of control groups; and what is used of it.
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available() -> int | None:
    """Bytes that new processes can have: the system's, or what is left of the container's limit; None if not known."""
    found = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")))
    for limit, used in GROUPS:
        with suppress(OSError, ValueError):  # `max`: no limit
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
    return min(found) if found else None


def give_back() -> None:
    """Return to the system what the C library keeps of freed arrays, where it can (glibc).

    Arrays of a partition are a few megabytes: many come and go, and what is left lies between those that stay. Over
    millions of samples that was a third of the resident memory.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def free_large_blocks_at_once() -> None:
    """Let the C library (glibc) give blocks of a megabyte and more back to the system as soon as they are freed.

    By itself it keeps them for later ones of their kind, in every thread's own arena: reading a store in chunks by
    threads, a process held twice what was alive in it.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(M_MMAP_THRESHOLD, LARGE_BYTES)
