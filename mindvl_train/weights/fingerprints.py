"""What a weight's bytes are, in one number that does not depend on how it is sharded.

Every element's bits and place are mixed, and the results added modulo 2⁶⁴: ranks add their pieces in any order.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mindvl_train.dtensor import holds_first_copy, local, place_of

# The finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), as signed numbers.
GOLDEN, FIRST, SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprints(model: nn.Module) -> dict[str, str]:
    """One number for every parameter, in hexadecimal; the same under every mesh."""
    parameters = dict(model.named_parameters())
    sums = torch.stack([_mixed(parameter.detach()).cpu() for parameter in parameters.values()])
    if dist.is_initialized():
        dist.all_reduce(sums)
    return {name: f"{each & (2**64 - 1):016x}" for name, each in zip(parameters, sums.tolist(), strict=True)}


def _mixed(parameter: Tensor) -> Tensor:
    """This rank's part of the sum; a piece that several ranks hold counts once."""
    piece = local(parameter)
    if not holds_first_copy(parameter) or piece.numel() == 0:
        return torch.zeros((), dtype=torch.int64)
    mixed = _places(parameter, piece.device).mul_(GOLDEN)
    mixed ^= piece.contiguous().view(INTEGERS[piece.element_size()]).to(torch.int64)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, 1)):
        # Shifts keep the sign, which mixes as well.
        mixed ^= mixed >> shift
        mixed *= factor
    return mixed.sum()


def _places(parameter: Tensor, device: torch.device) -> Tensor:
    """The number of every element of this rank's piece in the whole tensor, from 1."""
    places = torch.ones((), dtype=torch.int64, device=device)
    for size, part in zip(parameter.shape, place_of(parameter), strict=True):
        places = (places * size).unsqueeze(-1) + torch.arange(part.start, part.stop, device=device)
    return places
