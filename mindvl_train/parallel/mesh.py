"""The ranks of a run as one mesh of devices, and the process group beneath it.

Rank = ((replicate · S + shard) · C + context) · T + tensor: tensor-parallel ranks are neighbours. One principle
holds for every dimension: a rank's gradient is that of its own tokens, and a parameter's gradient is the sum
over all ranks that hold the same piece of it. So context and tensor ranks are, for every weight that tensor
parallelism does not divide, more ranks to shard over.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from mindvl_train.accelerators import Accelerator


@dataclass(frozen=True)
class Sizes:
    """Ranks in every dimension; `expert` divides shard · context · tensor, whose ranks it is folded over."""

    replicate: int = 1
    shard: int = 1
    context: int = 1
    tensor: int = 1
    expert: int = 1

    @property
    def ranks(self) -> int:
        """All of them."""
        return self.data * self.share

    @property
    def data(self) -> int:
        """The packs of a step are dealt to so many groups of ranks."""
        return self.replicate * self.shard

    @property
    def share(self) -> int:
        """Ranks of such a group: they share the tokens and the images of the same packs."""
        return self.context * self.tensor

    def __str__(self) -> str:
        return ", ".join(f"{name} {size}" for name, size in asdict(self).items() if size > 1 or name == "shard")


@dataclass(frozen=True)
class Mesh:
    """This rank's view.

    Attributes:
        sizes: of every dimension.
        device: this rank's.
        rank: from 0 to `sizes.ranks`.
        whole: what most weights are sharded over: shard · context · tensor, beneath `replicate` if there are
            copies.
        divided: the same for weights that tensor parallelism divides: shard · context.
        experts: the same for experts: the ranks that hold the same ones.
        context, tensor, expert: one dimension each.
        share: context · tensor.
    """

    sizes: Sizes
    device: torch.device
    rank: int
    whole: DeviceMesh
    divided: DeviceMesh
    experts: DeviceMesh
    context: DeviceMesh
    tensor: DeviceMesh
    expert: DeviceMesh
    share: DeviceMesh

    @property
    def data_rank(self) -> int:
        """Which packs of a step are this rank's."""
        return self.rank // self.sizes.share

    @property
    def share_rank(self) -> int:
        """Which tokens and images of them."""
        return self.rank % self.sizes.share


def build_mesh(sizes: Sizes, device: torch.device) -> Mesh:
    """Lays the ranks of the process group out; every rank calls it."""
    shape = (sizes.replicate, sizes.shard, sizes.context, sizes.tensor)
    root = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard", "context", "tensor"))
    whole = root["shard", "context", "tensor"]._flatten("whole")
    folded = whole._unflatten(0, (whole.size() // sizes.expert, sizes.expert), ("expert_shard", "expert"))

    def copied(inner: DeviceMesh) -> DeviceMesh:
        return inner if sizes.replicate == 1 else DeviceMesh._concatenate([root["replicate"], inner])

    return Mesh(
        sizes=sizes,
        device=device,
        rank=dist.get_rank(),
        whole=copied(whole),
        divided=copied(root["shard", "context"]._flatten("divided")),
        experts=copied(folded["expert_shard"]),
        context=root["context"],
        tensor=root["tensor"],
        expert=folded["expert"],
        share=root["context", "tensor"]._flatten("share"),
    )


def world_size() -> int:
    """Ranks of this run, before and after they have met."""
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this rank is the one that writes what is written once."""
    return (dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))) == 0


@contextmanager
def joined(accelerator: Accelerator) -> Iterator[torch.device]:
    """Meets the other ranks, yields this rank's device and parts from them however it ends.

    torchrun says who they are; without it this process is alone. Numbers on the host travel over gloo whatever
    the accelerator. An error gets this rank's number as a note.
    """
    device = torch.device(accelerator.device_type)
    if accelerator.device_type != "cpu":
        device = torch.device(accelerator.device_type, int(os.environ.get("LOCAL_RANK", "0")))
        torch.accelerator.set_device_index(device)
    if dist.is_initialized():
        yield device
        return
    _join(accelerator)
    rank = dist.get_rank()
    try:
        yield device
    except Exception as error:
        error.add_note(f"on rank {rank}")
        raise
    finally:
        dist.destroy_process_group()


def _join(accelerator: Accelerator) -> None:
    mixed = f"cpu:gloo,{accelerator.device_type}:{accelerator.backend}"
    backend = accelerator.backend if accelerator.device_type == "cpu" else mixed
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
