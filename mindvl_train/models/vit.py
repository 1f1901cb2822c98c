"""The native-resolution vision tower of Qwen2.5-VL (arXiv 2502.13923) over a packed stream of patches.

Attention stays inside an image, and in most layers inside a window of it. A layer takes its segments as an
argument: windows are other segments over the same patches, which come window after window.
"""

from math import prod

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mindvl_data.vision.normalisation import CLIP, Channels, Normalisation
from mindvl_train.kernels.registry import Kernels
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.layers import FeedForward, RMSNorm, inverse_frequencies, rotary_table


class VisionConfig(BaseModel):
    """Sizes of the tower, under the names of the published `vision_config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    depth: int
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
    # Of the pixels, in red, green and blue on a scale of 0 to 1.
    mean: Channels = CLIP.mean
    deviation: Channels = CLIP.deviation

    @property
    def normalisation(self) -> Normalisation:
        """What it expects of its pixels."""
        return Normalisation(self.mean, self.deviation)

    @property
    def window(self) -> int | None:
        """Tokens on a side of a window."""
        return self.window_size and self.window_size // self.spatial_merge_size // self.patch_size

    @property
    def patch_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, rows and columns of a patch."""
        return self.in_channels, self.temporal_patch_size, self.patch_size, self.patch_size


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
        self.norm1 = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.attn = VisionAttention(config, kernels)
        self.norm2 = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size, kernels, bias=True)

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
        self.patch_embed = nn.Linear(prod(config.patch_shape), config.hidden_size, bias=False)
        self.kernels = kernels
        self.blocks = nn.ModuleList(VisionBlock(config, kernels) for _ in range(config.depth))

    def forward(self, patches: Tensor, patch_positions: Tensor, frames: Segments, windows: Segments) -> Tensor:
        """Embeds and encodes packed images.

        Args:
            patches: [N, values of a patch], merge block after merge block.
            patch_positions: [N, 2] int64, row and column of each patch in its image.
            frames: one segment for every image frame.
            windows: one segment for every window; the layers of `fullatt_block_indexes` see whole frames.

        Returns:
            [N, hidden_size], not normalised: the projector does that.
        """
        weight = self.patch_embed.weight
        hidden = self.kernels.patch_embedding(patches.to(weight.dtype), weight, self.config.patch_shape)
        rotary = self._rotary(patch_positions)
        for index, block in enumerate(self.blocks):
            windowed = self.config.window_size and index not in self.config.fullatt_block_indexes
            hidden = block(hidden, rotary, windows if windowed else frames)
        return hidden

    def _rotary(self, patch_positions: Tensor) -> tuple[Tensor, Tensor]:
        """2-D rotary angles: half of a head's frequencies turn with the row, the others with the column."""
        axis_size = self.config.hidden_size // self.config.num_heads // 2
        frequencies = inverse_frequencies(axis_size, self.config.rope_theta, patch_positions.device)
        return rotary_table(torch.flatten(patch_positions.unsqueeze(-1) * frequencies, start_dim=1))
