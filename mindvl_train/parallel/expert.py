"""Experts shared by ranks: tokens travel to the ranks of their experts and back, none is dropped."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import Shard

from mindvl_train.models.moe import Experts
from mindvl_train.parallel.collectives import exchange
from mindvl_train.parallel.mesh import Mesh
from mindvl_train.parallel.tensor import divided


def divide(model: nn.Module, mesh: Mesh) -> None:
    """Gives every rank a run of the experts; the model is on the meta device."""
    if mesh.sizes.expert == 1:
        return
    for module in model.modules():
        if isinstance(module, Experts):
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, divided(weight, mesh.expert, Shard(0)))
            module.exchange = AllToAll(mesh.expert.get_group())


class AllToAll:
    """Sends tokens to the ranks that hold their experts."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group

    def __call__(self, tokens: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Takes this rank's tokens to all experts, gives all ranks' tokens for its own.

        Args:
            tokens: [M, D], sorted by expert.
            counts: [E] int64, of each of all experts.

        Returns:
            [N, D] sorted by this rank's experts; [E / ranks] how many each has; and what brings [N, D] back to
            [M, D] in the order they came in.
        """
        ranks = self._group.size()
        here = counts.view(ranks, -1)
        there = torch.empty_like(here)
        dist.all_to_all_single(there, here.contiguous(), group=self._group)
        send, receive = torch.stack((here.sum(dim=1), there.sum(dim=1))).tolist()
        arrived = exchange(tokens, send, receive, self._group)
        # They arrive by rank and then by expert, and are wanted by expert and then by rank.
        experts = torch.arange(there.shape[1], device=counts.device).repeat(ranks)
        order = torch.argsort(experts.repeat_interleave(there.flatten()), stable=True)

        def back(outputs: Tensor) -> Tensor:
            return exchange(outputs.index_select(0, torch.argsort(order)), receive, send, self._group)

        return arrived.index_select(0, order), there.sum(dim=0), back
