"""Multi-head latent attention of DeepSeek-V2 and V3 (arXiv 2405.04434, 2.1): keys and values from one small vector."""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mindvl_train.kernels.registry import Kernels
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.layers import RMSNorm
from mindvl_train.models.yarn import Yarn

# The published modules do not take this from the configuration.
EPS = 1e-6


class LatentConfig(BaseModel):
    """Sizes under the names of the published `config.json`; `q_lora_rank` None: queries are not compressed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


class LatentAttention(nn.Module):
    """Causal attention; a head's first dimensions know no position, its last ones are turned with it."""

    def __init__(self, config: LatentConfig, size: int, num_heads: int, yarn: Yarn | None, kernels: Kernels) -> None:
        super().__init__()
        head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
        if config.q_lora_rank is None:
            self.q_proj = nn.Linear(size, num_heads * head_dim, bias=False)
        else:
            self.q_a_proj = nn.Linear(size, config.q_lora_rank, bias=False)
            self.q_a_layernorm = RMSNorm(config.q_lora_rank, EPS, kernels)
            self.q_b_proj = nn.Linear(config.q_lora_rank, num_heads * head_dim, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(size, config.kv_lora_rank + config.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = RMSNorm(config.kv_lora_rank, EPS, kernels)
        self.kv_b_proj = nn.Linear(
            config.kv_lora_rank, num_heads * (config.qk_nope_head_dim + config.v_head_dim), bias=False
        )
        self.o_proj = nn.Linear(num_heads * config.v_head_dim, size, bias=False)
        self.config = config
        self.num_heads = num_heads
        self.scale = head_dim**-0.5 * (yarn.attention_scale if yarn else 1.0)
        self.kernels = kernels

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        """[T, size] → [T, size]."""
        config, heads = self.config, (self.num_heads, -1)
        whole = self._query(hidden).view(len(hidden), *heads)
        query, query_turned = whole.split_with_sizes([config.qk_nope_head_dim, config.qk_rope_head_dim], dim=-1)
        latent, key_turned = self.kv_a_proj_with_mqa(hidden).split_with_sizes(
            [config.kv_lora_rank, config.qk_rope_head_dim], dim=-1
        )
        expanded = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, heads)
        key, value = expanded.split_with_sizes([config.qk_nope_head_dim, config.v_head_dim], dim=-1)
        query_turned = self.kernels.rotary(_halves(query_turned), *rotary)
        # One turned key serves all heads.
        key_turned = self.kernels.rotary(_halves(key_turned.unsqueeze(1)), *rotary).expand_as(query_turned)
        attended = self.kernels.attention(
            torch.cat((query, query_turned), dim=-1),
            torch.cat((key, key_turned), dim=-1),
            value,
            segments,
            causal=True,
            scale=self.scale,
        )
        projected: Tensor = self.o_proj(attended.flatten(1))
        return projected

    def _query(self, hidden: Tensor) -> Tensor:
        if self.config.q_lora_rank is None:
            whole: Tensor = self.q_proj(hidden)
            return whole
        compressed: Tensor = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(hidden)))
        return compressed


def _halves(heads: Tensor) -> Tensor:
    """Published dimensions are turned in neighbouring pairs, our kernels turn i with i + D/2."""
    return torch.cat((heads[..., 0::2], heads[..., 1::2]), dim=-1)
