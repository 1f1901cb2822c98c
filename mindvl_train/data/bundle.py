"""A batch as one piece of memory: what crosses processes, and may be pinned, as one tensor and not twelve."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mindvl_data.runtime.buffers import Buffers
from mindvl_train.data.batch import Batch

ALIGNMENT = 64
HEADER = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor of the batch lies in the buffer: `offset` in bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


class SharedPieces:
    """Shared memory of one worker that is written again once the receiver has taken its copy.

    A fresh piece costs ten times what one costs that was used before: the system clears every page of it. The
    first byte of a piece says whether it is taken; where all are, a piece is made for once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """At least `size` bytes, [bytes] uint8, marked as taken."""
        free = [piece for piece in self._pieces if not piece[0]]
        piece = next((piece for piece in free if len(piece) >= size), None)
        if piece is None:
            piece = _shared(size + size // 4)
            if free:
                self._pieces = [other for other in self._pieces if other is not free[0]]
            if len(self._pieces) < self._limit:
                self._pieces.append(piece)
        piece[0] = 1
        return piece


@dataclass
class Bundle:
    """A `Batch` laid flat.

    Attributes:
        buffer: [bytes] uint8, the batch's tensors one behind the other after `HEADER` bytes; from a worker it is
            shared memory.
        places: where each of them lies.
        rest: the batch's other fields.
        packs: the cursor, in packs over all ranks, once this batch is consumed; it moves with the last
            micro-batch of a step.
        ends_step: whether it is that.
        shared: whether the worker waits to use the buffer again.
    """

    buffer: Tensor
    places: tuple[Place, ...]
    rest: dict[str, Any]
    packs: int
    ends_step: bool
    shared: bool = False

    def batch(self, memory: Buffers | None = None) -> Batch:
        """The batch, its tensors views of one buffer of its own.

        memory: lends that buffer, to be used again once nothing of the batch is left; by default it is fresh.
        """
        if self.shared:
            own = (memory or Buffers()).lend(len(self.buffer))
            # By numpy, in this thread: torch's would go on waiting in a busy loop for more to copy.
            np.frombuffer(own, np.uint8)[:] = self.buffer.numpy()
            self._release_to(torch.frombuffer(own, dtype=torch.uint8))
        tensors: dict[str, Any] = {place.name: self._view(place) for place in self.places}
        return Batch(**self.rest, **tensors)

    def pin_memory(self) -> Bundle:
        """The same in page-locked memory; a DataLoader with `pin_memory` calls it."""
        self._release_to(self.buffer.pin_memory())
        return self

    def _release_to(self, own: Tensor) -> None:
        shared, self.buffer = self.buffer, own
        if self.shared:
            shared[0], self.shared = 0, False

    def _view(self, place: Place) -> Tensor:
        size = prod(place.shape) * place.dtype.itemsize
        return self.buffer[place.offset : place.offset + size].view(place.dtype).view(place.shape)


def lay_flat(batch: Batch, packs: int, ends_step: bool, pieces: SharedPieces | None = None) -> Bundle:
    """A batch as a bundle, in shared memory where `pieces` are given; see `Bundle` for `packs` and `ends_step`."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    places, end = [], HEADER
    for name, tensor in tensors.items():
        places.append(Place(name, tensor.dtype, tuple(tensor.shape), end))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    rest = {name: value for name, value in values.items() if name not in tensors}
    buffer = torch.empty(end, dtype=torch.uint8) if pieces is None else pieces.take(end)[:end]
    bundle = Bundle(buffer, tuple(places), rest, packs, ends_step, shared=pieces is not None)
    for place in places:
        bundle._view(place).copy_(tensors[place.name])
    return bundle


def _shared(size: int) -> Tensor:
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
