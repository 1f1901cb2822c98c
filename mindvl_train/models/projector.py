"""From the vision tower to the decoder: neighbouring patches merged into one token, two layers deep."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mindvl_train.kernels.registry import Kernels
from mindvl_train.models.vit import VisionConfig


class Merger(nn.Module):
    """The patch merger of Qwen2-VL: norm, merge² features side by side, linear, GELU, linear.

    Args:
        config: of the tower.
        out_size: of the decoder.
        kernels: the operations.
        norm_size: features that are normalised together: those of a patch, or those of a whole token.
    """

    def __init__(self, config: VisionConfig, out_size: int, kernels: Kernels, norm_size: int) -> None:
        super().__init__()
        merged_size = config.hidden_size * config.spatial_merge_size**2
        self.norm = config.normalise(norm_size, kernels)
        self.fc1 = nn.Linear(merged_size, merged_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(merged_size, out_size)
        self.norm_size, self.merged_size = norm_size, merged_size

    def forward(self, features: Tensor) -> Tensor:
        """[N, hidden_size] in merge-block order → [N / merge², out_size]."""
        merged = self.norm(features.reshape(-1, self.norm_size)).reshape(-1, self.merged_size)
        projected: Tensor = self.fc2(self.act(self.fc1(merged)))
        return projected


class Projector(Merger):
    """The merger of the last layer's features, and one for each of those that DeepStack takes (Qwen3-VL)."""

    def __init__(self, config: VisionConfig, out_size: int, kernels: Kernels) -> None:
        super().__init__(config, out_size, kernels, config.hidden_size)
        self.deepstack = nn.ModuleList(
            Merger(config, out_size, kernels, self.merged_size) for _ in config.deepstack_visual_indexes
        )

    def forward(self, features: Tensor, inner: Sequence[Tensor] = ()) -> Tensor:
        """[N, hidden_size] in merge-block order, and of every inner layer → [N / merge², (1 + layers) · out_size]."""
        deeper = [merger(each) for merger, each in zip(self.deepstack, inner, strict=True)]
        return torch.cat([super().forward(features), *deeper], dim=1)
