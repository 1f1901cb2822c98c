"""The native-resolution vision towers of Qwen2.5-VL (arXiv 2502.13923) and Qwen3-VL (arXiv 2511.21631) over a packed
stream of patches.

Attention stays inside an image, and in most layers inside a window of it. A layer takes its segments as an
argument: windows are other segments over the same patches, which come window after window.
"""

from math import isqrt, prod
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from mindvl_data.vision.normalisation import CLIP, Channels, Normalisation
from mindvl_train.kernels.registry import Kernels
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.layers import FeedForward, PlainFeedForward, RMSNorm, inverse_frequencies, rotary_table


class VisionConfig(BaseModel):
    """Sizes of the tower, under the names of the published `vision_config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int = Field(ge=1, le=1024)
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int = 14
    temporal_patch_size: int = 2
    in_channels: int = 3
    spatial_merge_size: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    # Pixels on a side of a window; None: every layer attends to whole images, else those of `fullatt_…`.
    window_size: int | None = None
    fullatt_block_indexes: tuple[int, ...] = ()
    norm: Literal["rms", "layer"] = "rms"
    # Whether the feed-forward layers have a gate (SiLU); without one GELU.
    gated: bool = True
    patch_bias: bool = False
    # A square of learnt positions, interpolated to the size of each image; None: rotary positions alone.
    num_position_embeddings: int | None = None
    # The layers whose features enter the decoder behind its first layers (DeepStack, arXiv 2406.04334).
    deepstack_visual_indexes: tuple[int, ...] = ()
    # Positions in time that a second of video takes in the decoder (Qwen2.5-VL).
    tokens_per_second: int = 2
    # Of the pixels, in red, green and blue on a scale of 0 to 1.
    mean: Channels = CLIP.mean
    deviation: Channels = CLIP.deviation

    @property
    def normalisation(self) -> Normalisation:
        """What it expects of its pixels."""
        return Normalisation(self.mean, self.deviation)

    @model_validator(mode="after")
    def _sizes_fit(self) -> "VisionConfig":
        positions = self.num_position_embeddings
        if positions is not None and isqrt(positions) ** 2 != positions:
            raise ValueError(f"num_position_embeddings {positions} is not the square of a side")
        if any(not 0 <= layer < self.depth for layer in self.deepstack_visual_indexes):
            raise ValueError(f"deepstack_visual_indexes {self.deepstack_visual_indexes}: there are {self.depth} layers")
        return self

    @property
    def window(self) -> int | None:
        """Tokens on a side of a window."""
        return self.window_size and self.window_size // self.spatial_merge_size // self.patch_size

    @property
    def patch_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a patch."""
        return self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size

    def normalise(self, size: int, kernels: Kernels) -> nn.Module:
        """A norm over `size` features, of the tower's kind."""
        if self.norm == "layer":
            return nn.LayerNorm(size, eps=self.rms_norm_eps)
        return RMSNorm(size, self.rms_norm_eps, kernels)


class VisionAttention(nn.Module):
    """Attention of every patch to all patches of its segment."""

    def __init__(self, config: VisionConfig, kernels: Kernels) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.kernels = kernels

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        """[N, hidden_size] → [N, hidden_size]."""
        query, key, value = self.qkv(hidden).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        query, key = (self.kernels.rotary(heads, *rotary) for heads in (query, key))
        attended = self.kernels.attention(query, key, value, segments, causal=False)
        projected: Tensor = self.proj(attended.flatten(1))
        return projected


class VisionBlock(nn.Module):
    """Attention and feed-forward, each behind a norm and around a residual."""

    def __init__(self, config: VisionConfig, kernels: Kernels) -> None:
        super().__init__()
        size, intermediate = config.hidden_size, config.intermediate_size
        self.norm1 = config.normalise(size, kernels)
        self.attn = VisionAttention(config, kernels)
        self.norm2 = config.normalise(size, kernels)
        self.mlp: nn.Module = (
            FeedForward(size, intermediate, kernels, bias=True)
            if config.gated
            else PlainFeedForward(size, intermediate)
        )

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        """[N, hidden_size] → [N, hidden_size]."""
        attended: Tensor = hidden + self.attn(self.norm1(hidden), rotary, segments)
        fed: Tensor = attended + self.mlp(self.norm2(attended))
        return fed


class VisionTower(nn.Module):
    """Patches of any number of images of any size → one feature a patch."""

    def __init__(self, config: VisionConfig, kernels: Kernels) -> None:
        super().__init__()
        self.config = config
        # A linear layer over flattened patches is the convolution of the published tower, reshaped.
        self.patch_embed = nn.Linear(prod(config.patch_shape), config.hidden_size, bias=config.patch_bias)
        self.pos_embed = (
            nn.Embedding(config.num_position_embeddings, config.hidden_size) if config.num_position_embeddings else None
        )
        self.kernels = kernels
        self.blocks = nn.ModuleList(VisionBlock(config, kernels) for _ in range(config.depth))

    def forward(
        self, patches: Tensor, patch_positions: Tensor, frames: Segments, windows: Segments
    ) -> tuple[Tensor, list[Tensor]]:
        """Embeds and encodes packed images.

        Args:
            patches: [N, values of a patch], merge block after merge block.
            patch_positions: [N, 4] int64, row and column of each patch in its frame, and the frame's rows and columns.
            frames: one segment for every image frame.
            windows: one segment for every window; the layers of `fullatt_block_indexes` see whole frames.

        Returns:
            [N, hidden_size] of the last layer, and of each of `deepstack_visual_indexes`; not normalised: the
            projector does that.
        """
        weight = self.patch_embed.weight
        hidden = self.kernels.patch_embedding(patches.to(weight.dtype), weight, self.config.patch_shape)
        if self.patch_embed.bias is not None:
            hidden = hidden + self.patch_embed.bias
        if self.pos_embed is not None:
            hidden = hidden + _interpolated(self.pos_embed, patch_positions).to(hidden.dtype)
        rotary = self._rotary(patch_positions[:, :2])
        inner = []
        for index, block in enumerate(self.blocks):
            windowed = self.config.window_size and index not in self.config.fullatt_block_indexes
            hidden = block(hidden, rotary, windows if windowed else frames)
            if index in self.config.deepstack_visual_indexes:
                inner.append(hidden)
        return hidden, inner

    def _rotary(self, patch_positions: Tensor) -> tuple[Tensor, Tensor]:
        """2-D rotary angles: half of a head's frequencies turn with the row, the others with the column."""
        axis_size = self.config.hidden_size // self.config.num_heads // 2
        frequencies = inverse_frequencies(axis_size, self.config.rope_theta, patch_positions.device)
        return rotary_table(torch.flatten(patch_positions.unsqueeze(-1) * frequencies, start_dim=1))


def _interpolated(table: nn.Embedding, patch_positions: Tensor) -> Tensor:
    """A learnt square stretched over every frame, its corners on the frame's corners: [N, hidden_size], bilinear.

    Args:
        table: side · side positions.
        patch_positions: as of `VisionTower.forward`.
    """
    side = isqrt(table.num_embeddings)
    places, last = patch_positions[:, :2].float(), (patch_positions[:, 2:] - 1).clamp(min=1).float()
    exact = places * ((side - 1) / last)
    low = exact.floor().clamp(max=side - 1)
    high = (low + 1).clamp(max=side - 1)
    share = exact - low
    rows, columns = (torch.stack((low[:, axis], high[:, axis]), dim=1).long() for axis in (0, 1))
    weights = [torch.stack((1 - share[:, axis], share[:, axis]), dim=1) for axis in (0, 1)]
    corners = (rows[:, :, None] * side + columns[:, None, :]).flatten(1)
    of_corner = (weights[0][:, :, None] * weights[1][:, None, :]).flatten(1)
    interpolated: Tensor = (table(corners) * of_corner[:, :, None]).sum(dim=1)
    return interpolated
