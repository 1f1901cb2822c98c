"""Each expert's matrix times its own run of tokens."""

import torch
from torch import Tensor

from mindvl_train.kernels.registry import KernelSpec


def reference(tokens: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """One product an expert.

    Args:
        tokens: [M, D], sorted by expert.
        weight: [E, D, N].
        counts: [E] int64, tokens of each expert; they add up to M, and some may be 0.

    Returns:
        [M, N].
    """
    runs = torch.split(tokens, counts.tolist())
    return torch.cat([run @ matrix for run, matrix in zip(runs, weight, strict=True)])


REFERENCE = KernelSpec(devices=frozenset(), load=lambda: reference)
