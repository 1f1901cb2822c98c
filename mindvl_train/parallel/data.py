"""Every weight sharded over the ranks that hold the same piece of it (FSDP2), gathered a block at a time."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp._fully_shard import _fsdp_common
from torch.distributed.fsdp._fully_shard._fsdp_common import FSDPMeshInfo, HSDPMeshInfo
from torch.distributed.tensor import DTensor, Shard

from mindvl_train.config.schema import TrainConfig
from mindvl_train.dtensor import copies_of, local
from mindvl_train.models.delta_net import Decay
from mindvl_train.models.moe import Router
from mindvl_train.parallel import host
from mindvl_train.parallel.mesh import Mesh

# Whether weights of one module can be sharded over different meshes: not in torch 2.10.
MESH_PER_WEIGHT = hasattr(_fsdp_common, "ShardPlacementResult")
# Modules whose weights are used in float32 whatever the precision: a router's scores differ by less than a step of
# bfloat16, and a head forgets by a power of a power of its rate.
WIDE = (Router, Decay)
# [experts, out, in].
EXPERT_DIMENSIONS = 3


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered and checkpointed at a time: the members of every `nn.ModuleList`."""
    return [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]


def shard(model: nn.Module, mesh: Mesh, config: TrainConfig) -> None:
    """Shards a model without memory in place; tensor and expert parallelism have divided it before.

    A rank alone keeps it whole: there is nothing to gather, unless weights are used in another type.
    Gradients are summed and never divided: the loss has been divided by the weights of all ranks. HCCL knows
    plain sums alone.
    """
    alone = mesh.sizes.ranks == 1 and config.precision == "float32"
    wide = MixedPrecisionPolicy(cast_forward_inputs=False)
    narrow = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    policy = narrow if config.precision == "bfloat16" else wide
    place = _placing(mesh)
    for module, own in [] if MESH_PER_WEIGHT else _divided_modules(model, mesh):
        fully_shard(module, mesh=own, shard_placement_fn=place, mp_policy=wide if isinstance(module, WIDE) else policy)
    kept_wide = [each for each in model.modules() if isinstance(each, WIDE) and not isinstance(each, FSDPModule)]
    for module in kept_wide if policy is narrow else []:
        fully_shard(module, mesh=mesh.whole, shard_placement_fn=place, mp_policy=wide)
    for block in blocks_of(model):
        if config.activation_checkpointing:
            checkpoint(block)
        if not alone:
            fully_shard(block, mesh=mesh.whole, shard_placement_fn=place, mp_policy=policy)
    if alone:
        return
    fully_shard(model, mesh=mesh.whole, shard_placement_fn=place, mp_policy=policy)
    for sharded in model.modules():
        if isinstance(sharded, FSDPModule):
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)


def end_forward(model: nn.Module) -> None:
    """Takes back what a forward pass without a backward pass leaves gathered: the parameters are the pieces
    again."""
    if isinstance(model, FSDPModule):
        model.reshard()


def add_copies_up(model: nn.Module, *, now: bool) -> None:
    """Says whether the next backward pass adds gradients up over the copies of the sharded model.

    Args:
        model: Sharded, or whole: of a whole one there is nothing to say.
        now: Once a step is enough.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(now)


def _meshes(mesh: Mesh) -> dict[str | None, DeviceMesh]:
    """The ranks that hold the same piece of a weight, by what divides it."""
    return {None: mesh.whole, "tensor": mesh.divided, "expert": mesh.experts}


def _divider(weight: Tensor) -> str | None:
    """The dimension of the mesh that a weight is divided over."""
    names = weight.device_mesh.mesh_dim_names if isinstance(weight, DTensor) else None
    return names[0] if names else None


def _placing(mesh: Mesh) -> Callable[[nn.Parameter], Any]:
    """Along which dimension a weight is sharded and, where torch lets it have one of its own, over which mesh."""
    infos = {name: _info(each) for name, each in _meshes(mesh).items()}

    def place(weight: nn.Parameter) -> Any:
        info = infos[_divider(weight)]
        dimension = Shard(_dimension(weight, info.shard_mesh_size))
        return _fsdp_common.ShardPlacementResult(dimension, info) if MESH_PER_WEIGHT else dimension

    return place


def _divided_modules(model: nn.Module, mesh: Mesh) -> Iterator[tuple[nn.Module, DeviceMesh]]:
    """The modules whose own weights tensor or expert parallelism divides, and the mesh of these: all are divided
    alike."""
    for module in model.modules():
        weight = next(module.parameters(recurse=False), None)
        if weight is not None and (divider := _divider(weight)) is not None:
            yield module, _meshes(mesh)[divider]


def _info(mesh: DeviceMesh) -> FSDPMeshInfo:
    if mesh.ndim == 1:
        return FSDPMeshInfo(mesh, shard_mesh_dim=0)
    return HSDPMeshInfo(mesh, shard_mesh_dim=1, replicate_mesh_dim=0)


def _dimension(weight: nn.Parameter, ranks: int) -> int:
    """Rows, but for few experts over many ranks: a dimension beyond the first must divide evenly."""
    piece = local(weight)
    few = piece.ndim == EXPERT_DIMENSIONS and piece.shape[0] % ranks
    return 1 if few and piece.shape[1] % ranks == 0 else 0


def clip_gradients(parameters: Sequence[Tensor], limit: float) -> float:
    """Scales all gradients down to a common norm of at most `limit`; returns the norm they had.

    The squares of every piece are added over all ranks, divided by the number of ranks that hold it.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    pieces = [local(gradient) for gradient in gradients]
    norms = torch.stack(torch._foreach_norm(pieces)).double().cpu()
    shares = torch.tensor([1.0 / copies_of(gradient) for gradient in gradients], dtype=torch.float64)
    norm = math.sqrt(host.total(float((norms.square() * shares).sum())))
    if norm > limit:
        torch._foreach_mul_(pieces, limit / norm)
    return norm
