"""Which meshes a model and its stages can be trained on; asked before anything starts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import gcd

from torch import nn

from mindvl_data.errors import UserError
from mindvl_train.config.schema import MeshConfig
from mindvl_train.models.decoder import DecoderAttention, DecoderLayer
from mindvl_train.models.delta_net import GatedDeltaNet
from mindvl_train.models.latent_attention import LatentAttention
from mindvl_train.models.layers import FeedForward
from mindvl_train.models.moe import MixtureOfExperts
from mindvl_train.parallel.mesh import Sizes

SHOWN = 4


class MeshError(UserError):
    """A mesh that cannot work; says why, and which would."""


@dataclass(frozen=True)
class StageShape:
    """What a stage asks of a mesh, in packs and tokens."""

    name: str
    global_batch: int
    micro_batch: int
    seq_len: int


@dataclass(frozen=True)
class Limits:
    """What a run can be divided by.

    Attributes:
        heads, kv_heads: of the decoder's attention; 0: it has none that we know how to divide.
        width: a common divisor of the decoder's feed-forward widths; 0 without any.
        experts: a common divisor of their numbers; 0 without any.
        stages: of the run.
        holdout_seq_len: tokens of a pack of the held-out set, which is read a pack at a time; 0 without one.
        state_heads: key heads of the delta layers; 0 without any.
    """

    heads: int
    kv_heads: int
    width: int
    experts: int
    stages: Sequence[StageShape]
    holdout_seq_len: int = 0
    state_heads: int = 0


def limits_of(model: nn.Module, stages: Sequence[StageShape], holdout_seq_len: int = 0) -> Limits:
    """The limits of a model, which may be on the meta device."""
    heads = kv_heads = width = experts = state_heads = 0
    for module in model.modules():
        if isinstance(module, DecoderAttention):
            heads = gcd(heads, module.o_proj.in_features // module.head_dim)
            kv_heads = gcd(kv_heads, module.k_proj.out_features // module.head_dim)
        elif isinstance(module, LatentAttention):
            heads, kv_heads = gcd(heads, module.num_heads), gcd(kv_heads, module.num_heads)
        elif isinstance(module, GatedDeltaNet):
            state_heads = gcd(state_heads, module.config.num_key_heads)
        elif isinstance(module, DecoderLayer) and isinstance(module.mlp, FeedForward):
            width = gcd(width, module.mlp.gate_proj.out_features)
        elif isinstance(module, MixtureOfExperts):
            experts = gcd(experts, module.gate.config.num_experts)
    return Limits(heads, kv_heads, width, experts, stages, holdout_seq_len, state_heads)


def sizes_for(config: MeshConfig, ranks: int, limits: Limits) -> Sizes:
    """The mesh that the configuration asks for, over so many ranks.

    Raises:
        MeshError: it cannot work.
    """
    inner = config.replicate * config.context * config.tensor
    shard = config.shard if config.shard is not None else max(1, ranks // inner)
    sizes = Sizes(config.replicate, shard, config.context, config.tensor, config.expert)
    found = list(problems(sizes, ranks, limits))
    if found:
        raise MeshError(f"mesh ({sizes}): " + "; ".join(found) + f". {_advice(sizes, ranks, limits)}")
    return sizes


def problems(sizes: Sizes, ranks: int, limits: Limits) -> Iterator[str]:
    """Why a mesh cannot work; nothing if it can."""
    if sizes.ranks != ranks:
        yield f"replicate · shard · context · tensor is {sizes.ranks}, the run has {ranks} ranks"
    yield from _of_heads(sizes, limits)
    yield from _of_experts(sizes, limits)
    for stage in limits.stages:
        if stage.global_batch % (sizes.data * stage.micro_batch):
            yield (
                f"stages.{stage.name}: global_batch {stage.global_batch} is no multiple of replicate · shard · "
                f"micro_batch ({sizes.data} · {stage.micro_batch})"
            )
        if stage.seq_len * stage.micro_batch % sizes.share:
            yield (
                f"stages.{stage.name}: context · tensor ({sizes.share}) does not divide the "
                f"{stage.seq_len * stage.micro_batch} tokens of a micro-batch"
            )

    if limits.holdout_seq_len % sizes.share:
        yield f"holdout: context · tensor ({sizes.share}) does not divide its packs of {limits.holdout_seq_len} tokens"


def _of_heads(sizes: Sizes, limits: Limits) -> Iterator[str]:
    if sizes.share == 1:
        return
    if not limits.heads:
        yield "the model has no attention that context or tensor ranks could share"
        return
    if limits.heads % sizes.share:
        yield f"context · tensor ({sizes.share}) does not divide the {limits.heads} attention heads"
    if limits.kv_heads % sizes.tensor:
        yield f"tensor {sizes.tensor} does not divide the {limits.kv_heads} key-value heads"
    elif max(limits.kv_heads // sizes.tensor, sizes.context) % min(limits.kv_heads // sizes.tensor, sizes.context):
        yield f"context {sizes.context} and the {limits.kv_heads // sizes.tensor} key-value heads do not divide"
    if limits.state_heads % sizes.share:
        yield f"context · tensor ({sizes.share}) does not divide the {limits.state_heads} key heads of delta layers"
    if limits.width % sizes.tensor:
        yield f"tensor {sizes.tensor} does not divide a feed-forward width of {limits.width}"


def _of_experts(sizes: Sizes, limits: Limits) -> Iterator[str]:
    if sizes.expert == 1:
        return
    if not limits.experts:
        yield f"expert is {sizes.expert}, the model has no experts"
    elif limits.experts % sizes.expert:
        yield f"expert {sizes.expert} does not divide the {limits.experts} experts"
    inner = sizes.shard * sizes.share
    if inner % sizes.expert:
        yield f"expert {sizes.expert} does not divide shard · context · tensor ({inner})"


def meshes(ranks: int, limits: Limits) -> Iterator[Sizes]:
    """All meshes over so many ranks that can work, the simplest first."""
    every = (
        Sizes(replicate, ranks // replicate // context // tensor, context, tensor, expert)
        for expert in _divisors(ranks)
        for tensor in _divisors(ranks)
        for context in _divisors(ranks // tensor)
        for replicate in _divisors(ranks // tensor // context)
    )
    return (sizes for sizes in every if not any(problems(sizes, ranks, limits)))


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _advice(asked: Sizes, ranks: int, limits: Limits) -> str:
    """The meshes that are nearest to the one that was asked for."""

    def distance(sizes: Sizes) -> int:
        pairs = ("replicate", "context", "tensor", "expert")
        return sum(getattr(sizes, name) != getattr(asked, name) for name in pairs)

    nearest = sorted(meshes(ranks, limits), key=distance)[:SHOWN]
    if not nearest:
        batches = ", ".join(f"stages.{stage.name}.global_batch" for stage in limits.stages)
        return f"No mesh of {ranks} ranks would: change the number of ranks, or {batches}"
    return f"With {ranks} ranks these would: " + "; or ".join(str(sizes) for sizes in nearest)
