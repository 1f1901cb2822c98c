"""Fused kernels on the meta device: the arithmetic of a reference, without what autograd would keep of it."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def keeping(reference: Callable[..., Tensor], kept: Callable[..., Sequence[Tensor]]) -> Callable[..., Tensor]:
    """`reference` as it counts, forward and backward, with `kept(*arguments)` held in between and nothing else.

    Args:
        reference: of tensors, and of others behind them; on the meta device.
        kept: what the fused kernel saves for its backward pass.
    """

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *arguments: Any) -> Tensor:
            tensors = [each.detach().requires_grad_() for each in arguments if isinstance(each, Tensor)]
            # Hooks of its own: those of a caller that counts would see every tensor of the reference.
            with torch.enable_grad(), saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
                output = reference(*tensors, *arguments[len(tensors) :])
            ctx.inner, ctx.others = (tensors, output), len(arguments) - len(tensors)
            ctx.save_for_backward(*kept(*arguments))
            return output.detach()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
            tensors, output = ctx.inner
            return *torch.autograd.grad(output, tensors, gradients[0]), *[None] * ctx.others

    def fused(*arguments: Any) -> Tensor:
        output: Tensor = Fused.apply(*arguments)
        return output

    return fused
