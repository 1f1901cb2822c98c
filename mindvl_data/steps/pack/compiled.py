"""Kernels: Python functions that run as they are on a few samples, and as machine code on many.

Compiling takes half a minute once a machine (numba, with its cache on disk): more than packing a small set in
plain Python, and nothing beside packing a large one. Both give the same packs, since kernels compute in integers.
numba itself is imported when something is compiled, not before.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

AnyKernel = TypeVar("AnyKernel", bound=Callable[..., object])
# Below so many samples a kernel stays Python, below so many times more where only tokens limit a pack: a second's work.
FEW_SAMPLES = 20_000
TIMES_WITHIN_TOKENS = 5
_plain: ContextVar[bool | None] = ContextVar("plain", default=None)


def compiled(kernel: AnyKernel) -> AnyKernel:
    """`kernel`, to be called within `for_samples`."""
    return cast(AnyKernel, _Kernel(kernel))


@contextmanager
def for_samples(number: int, only_tokens: bool = False) -> Iterator[None]:
    """Kernels called within run as `number` samples deserve; within another such block, as that says.

    only_tokens: nothing else limits a pack, and no sample is drawn twice.
    """
    outer = _plain.get()
    few = FEW_SAMPLES * (TIMES_WITHIN_TOKENS if only_tokens else 1)
    token = _plain.set(number < few if outer is None else outer)
    try:
        yield
    finally:
        _plain.reset(token)


class _Kernel:
    def __init__(self, kernel: Callable[..., Any]) -> None:
        functools.update_wrapper(self, kernel)
        self._kernel = kernel

    def __call__(self, *arguments: Any) -> Any:
        return self._kernel(*arguments) if _plain.get() else self.machine_code(*arguments)

    @functools.cached_property
    def machine_code(self) -> Callable[..., Any]:
        """The compiled kernel; the kernels that it calls are machine code in it too."""
        function = cast(FunctionType, self._kernel)
        called = {name: function.__globals__.get(name) for name in function.__code__.co_names}
        kernels = {name: value.machine_code for name, value in called.items() if isinstance(value, _Kernel)}
        names = {**function.__globals__, **kernels}
        copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
        copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
        return _made(copy)


def _made(kernel: FunctionType) -> Callable[..., Any]:
    import numba

    settings: Any = numba.config
    before = settings.CACHE_DIR
    # numba does not see that a kernel in another file has changed; the cache folder's name does.
    settings.CACHE_DIR = str(Path(__file__).parent / "__pycache__" / f"kernels-{_code()}")
    try:
        return cast(Callable[..., Any], numba.njit(cache=True)(kernel))
    except RuntimeError:  # no folder can be written, neither here nor in the home: compile at every start
        return cast(Callable[..., Any], numba.njit(kernel))
    finally:
        settings.CACHE_DIR = before


@functools.cache
def _code() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]
