"""YaRN: rotary positions stretched over a longer context (arXiv 2309.00071), as DeepSeek-V3 uses them."""

import math

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor


class Yarn(BaseModel):
    """Under the names of the published `rope_scaling`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all_dim: float = 0.0

    @property
    def rotary_scale(self) -> float:
        """On cosines and sines."""
        if self.mscale and self.mscale_all_dim:
            return _temperature(self.factor, self.mscale) / _temperature(self.factor, self.mscale_all_dim)
        return _temperature(self.factor, 1.0)

    @property
    def attention_scale(self) -> float:
        """On the products of queries and keys, besides 1 / √D."""
        return _temperature(self.factor, self.mscale_all_dim) ** 2 if self.mscale_all_dim else 1.0

    def stretch(self, frequencies: Tensor, theta: float) -> Tensor:
        """[D / 2] → [D / 2]: slow frequencies divided by the factor, fast ones kept, a ramp between (3.2)."""
        pairs = len(frequencies)
        low = max(math.floor(self._pair(self.beta_fast, pairs, theta)), 0)
        high = min(math.ceil(self._pair(self.beta_slow, pairs, theta)), 2 * pairs - 1)
        places = torch.arange(pairs, dtype=torch.float32, device=frequencies.device)
        ramp = ((places - low) / max(high - low, 1e-3)).clamp(0, 1)
        return frequencies / self.factor * ramp + frequencies * (1 - ramp)

    def _pair(self, rotations: float, pairs: int, theta: float) -> float:
        """The pair of dimensions that turns so many times over the original context."""
        return pairs * math.log(self.original_max_position_embeddings / (rotations * 2 * math.pi)) / math.log(theta)


def _temperature(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1 else 1.0
