"""Three exchanges of rows between ranks, with the gradients that undo them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        received = rows.new_empty((sum(receive), *rows.shape[1:]))
        dist.all_to_all_single(received, rows.contiguous(), list(receive), list(send), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Exchange.apply(gradients[0], ctx.receive, ctx.send, ctx.group), None, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        gathered = rows.new_empty((len(rows) * group.size(), *rows.shape[1:]))
        dist.all_gather_into_tensor(gathered, rows.contiguous(), group=group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _ScatterSum.apply(gradients[0], ctx.group), None


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        summed = rows.new_empty((len(rows) // group.size(), *rows.shape[1:]))
        dist.reduce_scatter_tensor(summed, rows.contiguous(), group=group)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradients[0], ctx.group), None


def exchange(rows: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    """[Σ send, ...] → [Σ receive, ...]: a run of rows to every rank, a run from every rank, in the ranks' order."""
    received: Tensor = _Exchange.apply(rows, send, receive, group)
    return received


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[N, ...] → [ranks · N, ...]: the rows of all ranks, in their order; gradients are summed."""
    gathered: Tensor = _Gather.apply(rows, group)
    return gathered


def scatter_sum(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[ranks · N, ...] → [N, ...]: this rank's part of the sum over ranks."""
    summed: Tensor = _ScatterSum.apply(rows, group)
    return summed
