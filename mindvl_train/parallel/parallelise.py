"""One model over one mesh: every dimension's plan in its turn."""

from torch import nn

from mindvl_train.config.schema import TrainConfig
from mindvl_train.parallel import context, data, expert, tensor
from mindvl_train.parallel.mesh import Mesh


def parallelise(model: nn.Module, mesh: Mesh, config: TrainConfig) -> nn.Module:
    """Divides a model without memory in place; its weights keep their names and whole shapes."""
    tensor.divide(model, mesh)
    expert.divide(model, mesh)
    context.divide(model, mesh)
    data.shard(model, mesh, config)
    return model
