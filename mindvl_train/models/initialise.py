"""Weights: those of a checkpoint, or fresh ones drawn from the run's seed and each parameter's name.

A draw depends on nothing else: not on the order in which modules are built, not on other parameters, not on
the process. Torch's global generator is neither used nor set.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from mindvl_train.dtensor import local, place_of

DEVIATION = 0.02
# What is added to the residual stream; their deviation shrinks with depth (GPT-2, Radford et al. 2019, 2.3).
RESIDUAL_OUTPUTS = (".proj.weight", ".o_proj.weight", ".out_proj.weight", ".down_proj.weight", ".experts.down_proj")


@runtime_checkable
class DrawsItself(Protocol):
    """A module whose own parameters begin otherwise than by their shapes."""

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """The parameter `name`, whole, on the CPU."""


def give_weights(
    model: nn.Module, seed: int, device: torch.device, weights: Mapping[str, Tensor] | None = None
) -> nn.Module:
    """Gives a model on the meta device its memory on `device`, and its weights.

    Args:
        model: without memory; sharded or not: a rank takes its pieces.
        seed: of the draws; unused when `weights` are given.
        device: where the parameters shall lie.
        weights: one tensor a parameter name; None draws fresh ones.
    """
    source = Draws(model, seed) if weights is None else weights
    model = model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Copied in place even from a file: memory mapped from it is not aligned, and alignment decides
            # the last bit of a product of matrices.
            local(parameter).copy_(source[name][place_of(parameter)])
        for buffer in model.buffers():
            buffer.zero_()
    return model


class Draws(Mapping[str, Tensor]):
    """A fresh weight for every parameter of a model, drawn when it is asked for; the model may be on meta."""

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._parameters = dict(model.named_parameters())
        self._own = {
            f"{path}.{name}": (module, name)
            for path, module in model.named_modules()
            for name, _ in module.named_parameters(recurse=False)
            if isinstance(module, DrawsItself)
        }
        self._seed = seed
        self._depth = sum(name.endswith(RESIDUAL_OUTPUTS) for name in self._parameters)

    def __getitem__(self, name: str) -> Tensor:
        parameter = self._parameters[name]
        if name in self._own:
            module, own = self._own[name]
            return module.draw(own, parameter.shape, _generator(self._seed, name))
        return _draw(name, parameter, self._seed, self._depth)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)


def _draw(name: str, parameter: Tensor, seed: int, depth: int) -> Tensor:
    """Matrices normal, norms one, biases zero; on the CPU, so that every device starts from the same."""
    if parameter.ndim == 1:
        return torch.zeros(parameter.shape) if name.endswith("bias") else torch.ones(parameter.shape)
    deviation = DEVIATION / math.sqrt(depth) if name.endswith(RESIDUAL_OUTPUTS) else DEVIATION
    return torch.normal(0.0, deviation, parameter.shape, generator=_generator(seed, name))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
