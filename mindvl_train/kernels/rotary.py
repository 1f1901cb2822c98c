"""Rotary position embedding (Su et al., arXiv 2104.09864), in the half-split form of Llama and Qwen."""

import torch
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec


def reference(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates dimension i with dimension i + D/2 of every head.

    Args:
        heads: [T, heads, D] queries or keys.
        cos: [T, D] float32, the cosines of the angles, both halves written out.
        sin: [T, D] float32, likewise.

    Returns:
        [T, heads, D] in the type of `heads`.
    """
    wide = heads.float()
    first, second = wide.chunk(2, dim=-1)
    rotated = torch.cat((-second, first), dim=-1)
    return (wide * cos.unsqueeze(1) + rotated * sin.unsqueeze(1)).to(heads.dtype)


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
