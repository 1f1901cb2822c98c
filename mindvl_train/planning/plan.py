"""What a run would take: parameters, memory and arithmetic, without memory or an accelerator.

The model is built on torch's meta device and sent the costliest micro-batch of every stage, forward and backward
(`measure.py`): torch counts the floating-point operations, and what autograd keeps for the backward pass is added up,
in the run's precision and with or without its activation checkpointing. Nothing is estimated by formula but the
optimizer's state, the share of each rank, and what is whole while it is used.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from mindvl_data.manifest import pack_at, pack_costs
from mindvl_data.shards import Pack
from mindvl_train import plugins
from mindvl_train.config.loading import LoadedConfig, validate
from mindvl_train.data.batch import collate
from mindvl_train.kernels.registry import KernelConfig, KernelSpec, resolve
from mindvl_train.loop.assembly import Assembly, assemble
from mindvl_train.loop.optim import freeze_all_but
from mindvl_train.loop.stages import Stage
from mindvl_train.models.moe import MixtureOfExperts
from mindvl_train.models.spec import ModelSpec
from mindvl_train.parallel.data import WIDE
from mindvl_train.parallel.mesh import Sizes
from mindvl_train.planning.measure import measure
from mindvl_train.planning.propose import Load, Proposal, costliest, gathered, propose

META = torch.device("meta")
# Parameters, gradients and both moments of AdamW are kept in float32 whatever the precision they are used in.
BYTES = 4
MOMENTS = 2


@dataclass(frozen=True)
class StagePlan:
    """One stage on one rank, with everything that trains sharded over all ranks.

    Attributes:
        trained: parameters that train, over all ranks.
        weights, gradients, optimizer: bytes of this rank's share.
        gathered: bytes of weights and gradients that are whole while they are used.
        activations: bytes that the costliest micro-batch keeps for its backward pass.
        flops_per_token: floating-point operations of forward and backward pass, per token of that micro-batch.
    """

    name: str
    seq_len: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    flops_per_token: float

    @property
    def total(self) -> int:
        """Bytes on one rank."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


@dataclass(frozen=True)
class Plan:
    """Parameters in all, those that one token meets, every stage, and the meshes to take."""

    parameters: int
    active: int
    ranks: int
    stages: list[StagePlan]
    meshes: list[Proposal]


def make_plan(loaded: LoadedConfig, where: str, ranks: int, memory: float = math.inf) -> Plan:
    """Measures every stage on the meta device.

    Args:
        loaded: the run's configuration.
        where: its file, for messages.
        ranks: over which parameters, gradients and optimizer state are sharded.
        memory: bytes of one rank.

    Raises:
        UserError: as a run would.
    """
    parts = assemble(loaded, where)
    model = _on_meta(parts)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    stages = [_plan_stage(model, parts, stage, ranks) for stage in parts.stages]
    loads = [Load(shape, plan.activations) for shape, plan in zip(parts.limits.stages, stages, strict=True)]
    proposals = propose(lambda: _on_meta(parts), parts.config, parts.limits, costliest(loads), ranks, memory)
    return Plan(parameters, parameters - _idle(model), ranks, stages, proposals)


def _on_meta(parts: Assembly) -> nn.Module:
    """The model with the run's kernels where they work without values: a chunked loss keeps less than a whole one."""
    spec: ModelSpec = plugins.load(plugins.MODELS, parts.config.model.name)
    config = validate(spec.config, parts.record["model"]["config"], "", "model.config.")
    chosen = {operation: name for operation, name in parts.kernel_names.items() if _works_on_meta(operation, name)}
    with META:
        return spec.build(config, resolve(KernelConfig(**chosen), META.type))


def _works_on_meta(operation: str, name: str) -> bool:
    known = plugins.available(plugins.KERNELS)
    spec: KernelSpec = plugins.load(plugins.KERNELS, f"{operation}.{name}")
    return f"{operation}.{META.type}" not in known and spec.serves(META.type)


def _idle(model: nn.Module) -> int:
    """Parameters of the experts that a token does not meet."""
    idle = 0
    for layer in model.modules():
        if isinstance(layer, MixtureOfExperts):
            config = layer.gate.config
            experts = sum(parameter.numel() for parameter in layer.experts.parameters())
            idle += experts * (config.num_experts - config.num_experts_per_tok) // config.num_experts
    return idle


def _plan_stage(model: nn.Module, parts: Assembly, stage: Stage, ranks: int) -> StagePlan:
    freeze_all_but(model, stage.config.train)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    held = sum(parameter.numel() for parameter in model.parameters())
    pack = _costliest(stage)
    batch = collate([pack] * stage.config.micro_batch, parts.layout, pixels="black").to(META)
    measured = measure(as_used(model, parts.config.precision), batch)
    return StagePlan(
        name=stage.name,
        seq_len=stage.manifest.seq_len,
        trained=trained,
        weights=-(-held // ranks) * BYTES,
        gradients=-(-trained // ranks) * BYTES,
        optimizer=-(-trained // ranks) * BYTES * MOMENTS,
        gathered=gathered(model, Sizes(shard=ranks), parts.config.precision),
        activations=measured.checkpointed if parts.config.activation_checkpointing else measured.kept,
        flops_per_token=measured.flops / len(batch.ids),
    )


def as_used(model: nn.Module, precision: str) -> nn.Module:
    """With its weights as a forward pass sees them: in bfloat16, but for those that stay wide (`parallel/data.py`)."""
    if precision == "bfloat16":
        model.to(torch.bfloat16)
        for module in model.modules():
            if isinstance(module, WIDE):
                module.float()
    return model


def _costliest(stage: Stage) -> Pack:
    """The pack with the most patches, then with the dearest attention; of those alike the first."""
    found = []
    for manifest in stage.manifests.values():
        attention, patches = pack_costs(manifest).T
        found.append(pack_at(manifest, int(np.lexsort((-attention, -patches))[0])))
    return max(found, key=lambda pack: (pack.num_patches, pack.attention_cost))
