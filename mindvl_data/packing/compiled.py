"""Kernels: Python functions that run as they are on a few samples, and as machine code on many.

Compiling takes half a minute once a machine (numba, with its cache on disk): more than packing a small set in
plain Python, and nothing beside packing a large one. Both give the same packs, since kernels compute in integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from mindvl_data.machine_code import AnyKernel, Kernel

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


class _Kernel(Kernel):
    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments) if _plain.get() else self.machine_code(*arguments)
