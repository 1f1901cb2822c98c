"""A batch as one piece of memory: what crosses processes, and may be pinned, as one tensor and not twelve."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from mindvl_train.batch import Batch

ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor of the batch lies in the buffer: `offset` in bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Bundle:
    """A `Batch` laid flat.

    Attributes:
        buffer: [bytes] uint8, the batch's tensors one behind the other; in a worker of a DataLoader it is
            shared memory, so that nothing is copied on the way.
        places: where each of them lies.
        rest: the batch's other fields.
        packs: the cursor, in packs over all ranks, once this batch is consumed; it moves with the last
            micro-batch of a step.
        ends_step: whether it is that.
    """

    buffer: Tensor
    places: tuple[Place, ...]
    rest: dict[str, Any]
    packs: int
    ends_step: bool

    def batch(self) -> Batch:
        """The batch, its tensors views of the buffer."""
        tensors: dict[str, Any] = {place.name: self._view(place) for place in self.places}
        return Batch(**self.rest, **tensors)

    def pin_memory(self) -> Bundle:
        """The same in page-locked memory; a DataLoader with `pin_memory` calls it."""
        return replace(self, buffer=self.buffer.pin_memory())

    def _view(self, place: Place) -> Tensor:
        size = prod(place.shape) * place.dtype.itemsize
        return self.buffer[place.offset : place.offset + size].view(place.dtype).view(place.shape)


def lay_flat(batch: Batch, packs: int, ends_step: bool) -> Bundle:
    """A batch as a bundle; see `Bundle` for `packs` and `ends_step`."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    places, end = [], 0
    for name, tensor in tensors.items():
        places.append(Place(name, tensor.dtype, tuple(tensor.shape), end))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    rest = {name: value for name, value in values.items() if name not in tensors}
    bundle = Bundle(_buffer(end), tuple(places), rest, packs, ends_step)
    for place in places:
        bundle._view(place).copy_(tensors[place.name])
    return bundle


def _buffer(size: int) -> Tensor:
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage)
