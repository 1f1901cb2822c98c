"""The parts that the vision tower and the decoder share."""

import torch
from torch import Tensor, nn

from mindvl_train.kernels.registry import Kernels


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learnt scale."""

    def __init__(self, size: int, eps: float, kernels: Kernels) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.kernels = kernels

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., size] → [..., size]."""
        return self.kernels.rms_norm(hidden, self.weight, self.eps)


class ZeroCentredRMSNorm(RMSNorm):
    """The same with a scale of 1 + weight: weights begin at 0."""

    def draw(self, name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Zeros."""
        return torch.zeros(shape)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., size] → [..., size], in float32 throughout: 1 + weight in bfloat16 is 1 for the smallest weights."""
        return self.kernels.rms_norm(hidden.float(), 1.0 + self.weight.float(), self.eps).to(hidden.dtype)


class PlainFeedForward(nn.Module):
    """The feed-forward layer without a gate: linear, GELU by its tanh, linear."""

    def __init__(self, size: int, intermediate_size: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(size, intermediate_size)
        self.act = nn.GELU("tanh")
        self.down_proj = nn.Linear(intermediate_size, size)

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, size] → [T, size]."""
        fed: Tensor = self.down_proj(self.act(self.up_proj(hidden)))
        return fed


class FeedForward(nn.Module):
    """The gated feed-forward layer."""

    def __init__(self, size: int, intermediate_size: int, kernels: Kernels, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, size, bias=bias)
        self.kernels = kernels

    def forward(self, hidden: Tensor) -> Tensor:
        """[T, size] → [T, size]."""
        gated: Tensor = self.down_proj(self.kernels.swiglu(self.gate_proj(hidden), self.up_proj(hidden)))
        return gated


def inverse_frequencies(size: int, theta: float, device: torch.device) -> Tensor:
    """theta^(-2i/size) for i < size/2: [size / 2] float32."""
    return theta ** -(torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)


def rotary_table(angles: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Angles [T, D/2] → their cosines and sines [T, D], both halves written out as the kernels want them."""
    doubled = torch.cat((angles, angles), dim=-1)
    return doubled.cos() * scale, doubled.sin() * scale
