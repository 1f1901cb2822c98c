"""Attention heads and feed-forward widths shared by ranks (Megatron-LM, arXiv 1909.08053).

Between the divided layers each rank keeps its own run of tokens (arXiv 2205.05198): what enters a layer is
gathered, what leaves it is summed and scattered. So norms, embeddings and the head need no plan of their own.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from mindvl_train.dtensor import local
from mindvl_train.models.decoder import DecoderAttention, DecoderLayer
from mindvl_train.models.delta_net import Decay, GatedDeltaNet, ShortConvolution
from mindvl_train.models.latent_attention import LatentAttention
from mindvl_train.models.layers import FeedForward
from mindvl_train.parallel.collectives import gather_rows, scatter_sum
from mindvl_train.parallel.mesh import Mesh

# Which layers are divided by what they put out, and which by what they take in.
COLUMNS, ROWS = Shard(0), Shard(1)
ATTENTION = {"q_proj": COLUMNS, "k_proj": COLUMNS, "v_proj": COLUMNS, "o_proj": ROWS}
LATENT = {"q_proj": COLUMNS, "q_b_proj": COLUMNS, "kv_b_proj": COLUMNS, "o_proj": ROWS}
# Its filters and rates belong to channels and heads of the columns before them.
DELTA = {
    **{name: COLUMNS for name in ("q_proj", "k_proj", "v_proj", "gate_proj", "beta_proj", "decay_proj")},
    **{name: COLUMNS for name in ("q_conv", "k_conv", "v_conv", "decay")},
    "out_proj": ROWS,
}
FEED_FORWARD = {"gate_proj": COLUMNS, "up_proj": COLUMNS, "down_proj": ROWS}


def divide(model: nn.Module, mesh: Mesh) -> None:
    """Divides the decoder's attention and dense feed-forward layers in place; the model is on the meta device."""
    if mesh.sizes.tensor == 1:
        return
    for module in list(model.modules()):
        if isinstance(module, DecoderAttention):
            _divide(module, ATTENTION, mesh.tensor)
        elif isinstance(module, LatentAttention):
            _divide(module, LATENT, mesh.tensor)
            module.num_heads //= mesh.sizes.tensor
        elif isinstance(module, GatedDeltaNet):
            _divide(module, DELTA, mesh.tensor)
        elif isinstance(module, DecoderLayer) and isinstance(module.mlp, FeedForward):
            _divide(module.mlp, FEED_FORWARD, mesh.tensor)


class DividedLinear(nn.Linear):
    """A linear layer with some of its rows or columns."""

    def __init__(self, whole: nn.Linear, mesh: DeviceMesh, placement: Shard) -> None:
        # No parameters of its own: it takes those of the whole layer.
        nn.Module.__init__(self)
        self.in_features, self.out_features = whole.in_features, whole.out_features
        self.weight = divided(whole.weight, mesh, placement)
        self.bias = None if whole.bias is None else divided(whole.bias, mesh, placement)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 -- nn.Linear's name
        """[N, in] → [N, out], one of the two a share."""
        return F.linear(input, local(self.weight), None if self.bias is None else local(self.bias))


def divided(weight: Tensor, mesh: DeviceMesh, placement: Shard) -> nn.Parameter:
    """This rank's piece of a weight on the meta device, as a parameter that knows the whole."""
    piece = weight.detach().chunk(mesh.size(), placement.dim)[mesh.get_local_rank()].contiguous()
    whole = DTensor.from_local(piece, mesh, [placement], run_check=False, shape=weight.shape, stride=weight.stride())
    return nn.Parameter(whole, requires_grad=weight.requires_grad)


def _divide(module: nn.Module, plan: dict[str, Shard], mesh: DeviceMesh) -> None:
    for name, placement in plan.items():
        whole = getattr(module, name, None)
        if isinstance(whole, nn.Linear):
            setattr(module, name, DividedLinear(whole, mesh, placement))
        elif isinstance(whole, ShortConvolution | Decay):
            for own, weight in list(whole.named_parameters()):
                setattr(whole, own, divided(weight, mesh, placement))
    group = mesh.get_group()

    def enter(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (gather_rows(arguments[0], group), *arguments[1:])

    def leave(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return scatter_sum(output, group)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)
