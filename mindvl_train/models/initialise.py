"""Weights: those of a checkpoint, or fresh ones drawn from the run's seed and each parameter's name.

A draw depends on nothing else: not on the order in which modules are built, not on other parameters, not on
the process. Torch's global generator is neither used nor set.
"""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

DEVIATION = 0.02
# What is added to the residual stream; their deviation shrinks with depth (GPT-2, Radford et al. 2019, 2.3).
RESIDUAL_OUTPUTS = (".proj.weight", ".o_proj.weight", ".down_proj.weight")


def give_weights(
    model: nn.Module, seed: int, device: torch.device, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Gives a model on the meta device its memory on `device`, and its weights.

    Args:
        model: without memory.
        seed: of the draws; unused when `weights` are given.
        device: where the parameters shall lie.
        weights: one tensor a parameter name; None draws fresh ones.
    """
    model = model.to_empty(device=device)
    depth = sum(name.endswith(RESIDUAL_OUTPUTS) for name, _ in model.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Copied in place even from a file: memory mapped from it is not aligned, and alignment decides
            # the last bit of a product of matrices.
            parameter.copy_(weights[name] if weights else _draw(name, parameter, seed, depth))
    return model


def _draw(name: str, parameter: Tensor, seed: int, depth: int) -> Tensor:
    """Matrices normal, norms one, biases zero; on the CPU, so that every device starts from the same."""
    if parameter.ndim == 1:
        return torch.zeros(parameter.shape) if name.endswith("bias") else torch.ones(parameter.shape)
    deviation = DEVIATION / math.sqrt(depth) if name.endswith(RESIDUAL_OUTPUTS) else DEVIATION
    return torch.normal(0.0, deviation, parameter.shape, generator=_generator(seed, name))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
