"""Weights averaged over checkpoints, as MindVL ends: over those trained at several sequence lengths."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mindvl_train.checkpoint import WEIGHTS, load_tensors
from mindvl_train.parallel.pieces import local


@torch.no_grad()
def average_into(weights: Mapping[str, Tensor], parents: Mapping[Path, float]) -> None:
    """Replaces weights by the mean of those of checkpoints; a rank reads and adds its pieces alone.

    Args:
        weights: of every parameter, sharded or not, in float32.
        parents: checkpoints, and what each counts for; the shares need not add up to 1.
    """
    whole = sum(parents.values())
    sums = {name: torch.zeros_like(tensor) for name, tensor in weights.items()}
    for parent, share in parents.items():
        load_tensors(parent / WEIGHTS, weights)
        for name, tensor in weights.items():
            local(sums[name]).add_(local(tensor), alpha=share / whole)
    for name, tensor in weights.items():
        local(tensor).copy_(local(sums[name]))
