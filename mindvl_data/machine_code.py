"""Python functions as machine code (numba), compiled when first called and kept on disk beside their source.

numba itself is imported with the first compilation, not before: most commands never need it.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

AnyKernel = TypeVar("AnyKernel", bound=Callable[..., object])
# numba reads its cache folder from a setting of the whole process.
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
        function = cast(FunctionType, self.function)
        called = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        kernels = {name: value.machine_code for name, value in called.items() if isinstance(value, Kernel)}
        names = {**function.__globals__, **kernels}
        copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
        copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
        with _COMPILING:
            return _made(copy)


def compiled(function: AnyKernel) -> AnyKernel:
    """`function` as a kernel."""
    return cast(AnyKernel, Kernel(function))


def _made(kernel: FunctionType) -> Callable[..., Any]:
    import numba

    folder = Path(kernel.__code__.co_filename).parent
    settings: Any = numba.config
    before = settings.CACHE_DIR
    # numba does not see that a kernel in another file has changed; the cache folder's name does.
    settings.CACHE_DIR = str(folder / "__pycache__" / f"kernels-{_code(folder)}")
    try:
        return cast(Callable[..., Any], numba.njit(cache=True, nogil=True)(kernel))
    except RuntimeError:  # no folder can be written, neither here nor in the home: compile at every start
        return cast(Callable[..., Any], numba.njit(nogil=True)(kernel))
    finally:
        settings.CACHE_DIR = before


@functools.cache
def _code(folder: Path) -> str:
    files = sorted(folder.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
