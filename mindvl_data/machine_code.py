"""Python functions as machine code (numba), compiled when first called and kept on disk beside their source.

numba itself is imported with the first compilation, not before: most commands never need it.
"""

from __future__ import annotations

import functools
import hashlib
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

AnyKernel = TypeVar("AnyKernel", bound=Callable[..., object])
# One thread at a time changes numba's settings, which are the whole process's.
_COMPILING = threading.RLock()


class Kernel:
    """A function of numbers and arrays; calling it runs machine code, without the interpreter's lock."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *arguments: Any) -> Any:
        return self.machine_code(*arguments)

    @functools.cached_property
    def machine_code(self) -> Callable[..., Any]:
        """The compiled function; the kernels that it calls are machine code in it too."""
        with _COMPILING:
            return cast(Callable[..., Any], _in_machine_code(self.function.__module__)[self.function.__name__])


def compiled(function: AnyKernel) -> AnyKernel:
    """`function` as a kernel."""
    return cast(AnyKernel, Kernel(function))


@functools.cache
def _in_machine_code(module: str) -> dict[str, Any]:
    """What a module's names stand for, with machine code in the place of its kernels and of those that it imports.

    numba looks the names that a function uses up among the function's globals and cannot call a `Kernel`; so what it is
    given is a copy of each kernel that has these names for its globals.
    """
    names = dict(vars(sys.modules[module]))
    for name, value in list(names.items()):
        if isinstance(value, Kernel):
            own = value.function.__module__ == module
            names[name] = _machine_code(value.function, names) if own else value.machine_code
    return names


def _machine_code(function: Callable[..., Any], names: dict[str, Any]) -> Callable[..., Any]:
    """A copy of the function with these globals, to be compiled for the types that it is called with."""
    import numba

    original = cast(FunctionType, function)
    copy = FunctionType(original.__code__, names, original.__name__, original.__defaults__)
    copy.__module__, copy.__qualname__ = original.__module__, original.__qualname__
    try:
        with _cached_beside(Path(original.__code__.co_filename).parent):
            return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(copy))
    except RuntimeError:  # no folder can be written, neither here nor in the home: compile at every start
        return cast(Callable[..., Any], numba.njit(nogil=True)(copy))


@contextmanager
def _cached_beside(folder: Path) -> Iterator[None]:
    """Have numba keep machine code in a folder that is named after all code of this one.

    By itself numba compiles a kernel anew when the kernel's own file has changed, and not when one that it calls has,
    in another file. Where it keeps machine code is a setting of the whole process, so it is put back.
    """
    import numba

    settings: Any = numba.config
    before = settings.CACHE_DIR
    settings.CACHE_DIR = str(folder / "__pycache__" / f"kernels-{_code(folder)}")
    try:
        yield
    finally:
        settings.CACHE_DIR = before


@functools.cache
def _code(folder: Path) -> str:
    files = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
