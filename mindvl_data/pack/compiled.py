"""Compiling a kernel: numba with its cache on disk, so that a machine compiles once and not at every start.

Importing numba takes 0.4 s: modules with kernels are imported by the functions that call them, never when
mindvl_data.pack is. Kernels compute in integers, so that every processor makes the same packs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

Kernel = TypeVar("Kernel", bound=Callable[..., object])
# As Any: what is compiled keeps the type of its Python function.
_njit: Any = numba.njit
_config: Any = numba.config


def compiled(kernel: Kernel) -> Kernel:
    """`kernel` as machine code, made when it is first called on a machine."""
    with _own_folder():
        try:
            made: Kernel = _njit(cache=True)(kernel)
        except RuntimeError:  # no folder can be written, neither here nor in the home: compile at every start
            made = _njit(kernel)
    return made


@contextmanager
def _own_folder() -> Iterator[None]:
    """Where the cache lies: numba does not see that a kernel in another file has changed, the folder's name does."""
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(Path(__file__).parent / "__pycache__" / f"kernels-{_code()}")
    try:
        yield
    finally:
        _config.CACHE_DIR = before


@cache
def _code() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
