"""Which piece of a weight this rank holds; a tensor that nobody divided is one piece."""

from math import prod

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


def local(tensor: Tensor) -> Tensor:
    """This rank's piece: of a plain tensor all of it, the same shape and dtype."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def place_of(tensor: Tensor) -> tuple[slice, ...]:
    """Where this rank's piece lies in the whole tensor."""
    if not isinstance(tensor, DTensor):
        return tuple(slice(0, size) for size in tensor.shape)
    shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(slice(offset, offset + size) for offset, size in zip(offsets, shape, strict=True))


def copies_of(tensor: Tensor) -> int:
    """How many ranks hold the same piece."""
    if not isinstance(tensor, DTensor):
        return dist.get_world_size()
    pieces = prod(
        tensor.device_mesh.size(dimension)
        for dimension, placement in enumerate(tensor.placements)
        if not placement.is_replicate()
    )
    return dist.get_world_size() // pieces


def holds_first_copy(tensor: Tensor) -> bool:
    """Whether this rank is the first of those that hold the same piece."""
    if not isinstance(tensor, DTensor):
        return not dist.is_initialized() or dist.get_rank() == 0
    coordinate = tensor.device_mesh.get_coordinate() or ()
    return all(
        place == 0 for place, placement in zip(coordinate, tensor.placements, strict=True) if placement.is_replicate()
    )
