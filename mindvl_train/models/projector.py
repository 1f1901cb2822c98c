"""From the vision tower to the decoder: neighbouring patches merged into one token, two layers deep."""

from torch import Tensor, nn

from mindvl_train.kernels.registry import Kernels
from mindvl_train.models.layers import RMSNorm
from mindvl_train.models.vit import VisionConfig


class Projector(nn.Module):
    """The patch merger of Qwen2-VL: norm, merge² features side by side, linear, GELU, linear."""

    def __init__(self, config: VisionConfig, out_size: int, kernels: Kernels) -> None:
        super().__init__()
        merged_size = config.hidden_size * config.spatial_merge_size**2
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.fc1 = nn.Linear(merged_size, merged_size)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(merged_size, out_size)
        self.merged_size = merged_size

    def forward(self, features: Tensor) -> Tensor:
        """[N, hidden_size] in merge-block order → [N / merge², out_size]."""
        merged = self.norm(features).reshape(-1, self.merged_size)
        projected: Tensor = self.fc2(self.act(self.fc1(merged)))
        return projected
