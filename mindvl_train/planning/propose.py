"""Meshes for a number of ranks and a size of memory, those that send least between ranks first.

What a rank holds is measured: the model is divided on the meta device, under a process group that only pretends
to have so many ranks. What it sends is counted from the shapes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from mindvl_train.config.schema import TrainConfig
from mindvl_train.dtensor import local
from mindvl_train.models.decoder import DecoderLayer
from mindvl_train.models.moe import Experts, MixtureOfExperts
from mindvl_train.parallel.data import blocks_of
from mindvl_train.parallel.fit import Limits, StageShape, meshes
from mindvl_train.parallel.mesh import Sizes, build_mesh
from mindvl_train.parallel.parallelise import parallelise

# Weights, gradients and both moments of AdamW in float32; what is used and travels in the training's own type.
STATE_BYTES = 16
USED_BYTES = {"float32": 4, "bfloat16": 2}
TRIED = 24
SHOWN = 4


@dataclass(frozen=True)
class Proposal:
    """A mesh that fits.

    Attributes:
        sizes: of its dimensions.
        state: bytes of weights, gradients and optimizer state on the fullest rank, everything training.
        gathered: bytes of what is whole while it is used, see `gathered`.
        activations: bytes that a micro-batch keeps on a rank.
        sent: bytes that a rank sends in one step.
    """

    sizes: Sizes
    state: int
    gathered: int
    activations: int
    sent: int


@dataclass(frozen=True)
class Load:
    """The costliest stage: its shape, and the bytes that its micro-batch keeps on one undivided rank."""

    stage: StageShape
    activations: int


def propose(
    build: Callable[[], nn.Module], config: TrainConfig, limits: Limits, load: Load, ranks: int, memory: float
) -> list[Proposal]:
    """The best meshes.

    Args:
        build: makes the model on the meta device.
        config: of the run; its mesh counts for nothing.
        limits: what the run can be divided by.
        load: what has to fit.
        ranks: in all.
        memory: bytes of one rank.
    """
    model = build()
    sent = {sizes: _sent(model, sizes, load.stage, USED_BYTES[config.precision]) for sizes in meshes(ranks, limits)}
    found: list[Proposal] = []
    for sizes in sorted(sent, key=sent.__getitem__)[:TRIED]:
        activations, whole = load.activations // sizes.share, gathered(model, sizes, config.precision)
        # No need to build what cannot fit: a copy's state is spread over its ranks at best.
        if _parameters(model) * STATE_BYTES * sizes.replicate / ranks + whole + activations > memory:
            continue
        state = measure_state(build(), config, sizes)
        if state + whole + activations <= memory:
            found.append(Proposal(sizes, state, whole, activations, sent[sizes]))
        if len(found) == SHOWN:
            break
    return found


def measure_state(model: nn.Module, config: TrainConfig, sizes: Sizes) -> int:
    """Bytes of weights, gradients and optimizer state on the first rank, which is never the emptiest.

    Args:
        model: on the meta device; it is divided in place.
        config: of the run.
        sizes: of the mesh.
    """
    with _pretended(sizes.ranks):
        parallelise(model, build_mesh(sizes, torch.device("cpu")), config)
        return sum(local(parameter).numel() for parameter in model.parameters()) * STATE_BYTES


def gathered(model: nn.Module, sizes: Sizes, precision: str) -> int:
    """Bytes of weights and gradients that are whole on a rank while they are used, beside its pieces of them.

    What stands outside the blocks stays whole for a step; of the blocks there are one at work, the one after it, and
    the gradients of one (PyTorch FSDP, arXiv 2304.11277, 3.3). A rank alone gathers nothing in float32.
    """
    if sizes.ranks == 1 and precision == "float32":
        return 0
    blocks = blocks_of(model)
    inside = {id(weight) for block in blocks for weight in block.parameters()}
    outside = [weight for weight in model.parameters() if id(weight) not in inside]
    trained = sum(weight.numel() for weight in outside if weight.requires_grad)
    at_work = 2 * max((_on_a_rank(block, sizes) for block in blocks), default=0)
    their_gradients = max((_on_a_rank(block, sizes, trained=True) for block in blocks), default=0)
    numbers = sum(weight.numel() for weight in outside) + trained + at_work + their_gradients
    return numbers * USED_BYTES[precision]


def _on_a_rank(block: nn.Module, sizes: Sizes, *, trained: bool = False) -> int:
    """Numbers of a block, or of what trains of it, that a rank sees: its part of the heads, widths and experts."""
    counted = [weight for weight in block.parameters() if weight.requires_grad or not trained]
    if not isinstance(block, DecoderLayer):
        return sum(weight.numel() for weight in counted)
    experts = {id(each) for layer in block.modules() if isinstance(layer, Experts) for each in layer.parameters()}
    parts = (sizes.tensor, sizes.expert)
    return sum(weight.numel() // parts[id(weight) in experts] for weight in counted)


@contextmanager
def _pretended(ranks: int) -> Iterator[None]:
    """A process group of so many ranks without any but this one; nothing is sent."""
    # Its import registers the backend.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _sent(model: nn.Module, sizes: Sizes, stage: StageShape, width: int) -> int:
    """Bytes that a rank sends in a step.

    Weights are gathered twice and gradients scattered once a micro-batch, and added up over copies once; Ulysses
    moves queries, keys, values and outputs, tensor parallelism gathers and scatters around two layers, experts
    get their tokens and give them back, all forward and backward.
    """
    blocks = [module for module in model.modules() if isinstance(module, DecoderLayer)]
    sparse = [module for module in model.modules() if isinstance(module, MixtureOfExperts)]
    hidden = blocks[0].input_layernorm.weight.numel() if blocks else 0
    experts = sum(parameter.numel() for layer in sparse for parameter in layer.experts.parameters())
    divided = sum(_parameters(block) for block in blocks) - experts
    rest = _parameters(model) - experts - divided
    micro_batches = stage.global_batch // (sizes.data * stage.micro_batch)
    tokens = stage.micro_batch * stage.seq_len // sizes.share
    gathered = rest + divided // sizes.tensor + experts // sizes.expert
    weights = 3 * gathered * _others(sizes.shard * sizes.share) * micro_batches
    copies = 2 * _parameters(model) / (sizes.shard * sizes.share) * _others(sizes.replicate)
    context = 2 * 4 * len(blocks) * tokens * hidden * _others(sizes.context)
    tensor = 2 * 4 * len(blocks) * tokens * hidden * (sizes.tensor - 1)
    chosen = sum(layer.gate.config.num_experts_per_tok for layer in sparse)
    expert = 2 * 2 * chosen * tokens * hidden * _others(sizes.expert)
    return round(width * (weights + copies + micro_batches * (context + tensor + expert)))


def _others(ranks: int) -> float:
    """The share of what ranks exchange evenly that leaves a rank."""
    return (ranks - 1) / ranks


def costliest(loads: Sequence[Load]) -> Load:
    """The one that keeps most."""
    return max(loads, key=lambda load: load.activations)
