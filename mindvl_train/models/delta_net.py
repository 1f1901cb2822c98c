"""Gated DeltaNet (arXiv 2412.06464) as Qwen3.5 has it: layers that remember by a state a head instead of attending."""

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, model_validator
from torch import Tensor, nn

from mindvl_train.dtensor import local
from mindvl_train.kernels.registry import Kernels
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.layers import RMSNorm

# Between which the rates are drawn that a head forgets with, as transformers does.
SLOWEST, FASTEST = 0.01, 16.0


class DeltaConfig(BaseModel):
    """Sizes under the names of the published `config.json`, without their `linear_`.

    Attributes:
        full_attention_layers: the decoder's layers that attend; all others remember.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_key_heads: int
    num_value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel_dim: int = 4
    full_attention_layers: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _heads_fit(self) -> "DeltaConfig":
        if self.num_value_heads % self.num_key_heads:
            raise ValueError(
                f"num_value_heads {self.num_value_heads} is no multiple of num_key_heads {self.num_key_heads}"
            )
        return self

    @property
    def key_size(self) -> int:
        """Of all heads' keys, and of their queries."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Of all heads' values."""
        return self.num_value_heads * self.value_head_dim


class ShortConvolution(nn.Module):
    """A filter a channel over the last tokens of a segment, and SiLU."""

    def __init__(self, channels: int, width: int, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.kernels = kernels

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """As torch draws a convolution of one channel a filter."""
        bound = shape[-1] ** -0.5
        return torch.empty(shape).uniform_(-bound, bound, generator=generator)

    def forward(self, stream: Tensor, segments: Segments) -> Tensor:
        """[T, channels] → [T, channels]."""
        return self.kernels.causal_convolution(stream, local(self.weight), segments)


class Decay(nn.Module):
    """How much of its state a head keeps at a token: the logarithm, in float32."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.A_log = nn.Parameter(torch.empty(num_heads))
        self.dt_bias = nn.Parameter(torch.empty(num_heads))

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Rates spread evenly (Mamba-2, arXiv 2405.21060), as transformers draws them."""
        if name == "dt_bias":
            return torch.ones(shape)
        return torch.empty(shape).uniform_(SLOWEST, FASTEST, generator=generator).log()

    def forward(self, steps: Tensor) -> Tensor:
        """[T, heads] → [T, heads] float32, below 0."""
        rates = local(self.A_log).float().exp()
        return -rates * F.softplus(steps.float() + local(self.dt_bias).float())


class GatedDeltaNet(nn.Module):
    """Queries, keys and values behind short convolutions, the gated delta rule, and an output gate around a norm."""

    def __init__(self, config: DeltaConfig, size: int, eps: float, kernels: Kernels) -> None:
        super().__init__()
        kernels.need("delta_rule", "causal_convolution")
        key_size, value_size, width = config.key_size, config.value_size, config.conv_kernel_dim
        self.q_proj = nn.Linear(size, key_size, bias=False)
        self.k_proj = nn.Linear(size, key_size, bias=False)
        self.v_proj = nn.Linear(size, value_size, bias=False)
        self.q_conv = ShortConvolution(key_size, width, kernels)
        self.k_conv = ShortConvolution(key_size, width, kernels)
        self.v_conv = ShortConvolution(value_size, width, kernels)
        self.gate_proj = nn.Linear(size, value_size, bias=False)
        self.beta_proj = nn.Linear(size, config.num_value_heads, bias=False)
        self.decay_proj = nn.Linear(size, config.num_value_heads, bias=False)
        self.decay = Decay(config.num_value_heads)
        self.norm = RMSNorm(config.value_head_dim, eps, kernels)
        self.out_proj = nn.Linear(value_size, size, bias=False)
        self.config = config
        self.kernels = kernels

    def forward(self, hidden: Tensor, segments: Segments) -> Tensor:
        """[T, size] → [T, size]; every segment begins with nothing remembered."""
        key_heads, value_heads = (-1, self.config.key_head_dim), (-1, self.config.value_head_dim)
        query = self.q_conv(self.q_proj(hidden), segments).unflatten(-1, key_heads)
        key = self.k_conv(self.k_proj(hidden), segments).unflatten(-1, key_heads)
        value = self.v_conv(self.v_proj(hidden), segments).unflatten(-1, value_heads)
        decay, beta = self.decay(self.decay_proj(hidden)), self.beta_proj(hidden).sigmoid()
        remembered = self.norm(self.kernels.delta_rule(query, key, value, decay, beta, segments))
        gate = F.silu(self.gate_proj(hidden).unflatten(-1, value_heads).float())
        projected: Tensor = self.out_proj((remembered * gate).to(hidden.dtype).flatten(1))
        return projected
