"""OLMo 2 (arXiv 2501.00656) as somebody else would add it: this file, and two entry points that name its last lines.

Norms behind attention and feed-forward instead of before them, queries and keys normalised over all heads at once.
"""

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from mindvl_train.kernels.registry import Kernels
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.layers import FeedForward, RMSNorm, inverse_frequencies, rotary_table
from mindvl_train.models.vit import VisionConfig
from mindvl_train.models.vlm import with_decoder
from mindvl_train.weights.published.family import Json, Language, demand, plain
from mindvl_train.weights.published.qwen import SIZES, rotary

KEYS = (*SIZES, "rms_norm_eps", "tie_word_embeddings")


class Olmo2Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class Olmo2VLMConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    vision: VisionConfig
    decoder: Olmo2Config


class Attention(nn.Module):
    def __init__(self, config: Olmo2Config, kernels: Kernels) -> None:
        super().__init__()
        size, kv_size = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.q_proj, self.o_proj = (nn.Linear(size, size, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(size, kv_size, bias=False) for _ in range(2))
        self.q_norm = RMSNorm(size, config.rms_norm_eps, kernels)
        self.k_norm = RMSNorm(kv_size, config.rms_norm_eps, kernels)
        self.heads = (-1, config.head_dim)
        self.kernels = kernels

    def forward(self, hidden: Tensor, table: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        query = self.kernels.rotary(self.q_norm(self.q_proj(hidden)).unflatten(-1, self.heads), *table)
        key = self.kernels.rotary(self.k_norm(self.k_proj(hidden)).unflatten(-1, self.heads), *table)
        value = self.v_proj(hidden).unflatten(-1, self.heads)
        projected: Tensor = self.o_proj(self.kernels.attention(query, key, value, segments, causal=True).flatten(1))
        return projected


class Layer(nn.Module):
    def __init__(self, config: Olmo2Config, kernels: Kernels) -> None:
        super().__init__()
        self.self_attn = Attention(config, kernels)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size, kernels, bias=False)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels)

    def forward(self, hidden: Tensor, table: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        attended: Tensor = hidden + self.post_attention_layernorm(self.self_attn(hidden, table, segments))
        fed: Tensor = attended + self.post_feedforward_layernorm(self.mlp(attended))
        return fed


class Olmo2(nn.Module):
    def __init__(self, config: Olmo2Config, kernels: Kernels) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, kernels) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, kernels)
        untied = not config.tie_word_embeddings
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False) if untied else None

    @property
    def head(self) -> Tensor:
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(self, embeddings: Tensor, positions: Tensor, segments: Segments, real: Tensor) -> Tensor:
        frequencies = inverse_frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        table = rotary_table(positions.to(torch.float32).unsqueeze(-1) * frequencies)
        for layer in self.layers:
            embeddings = layer(embeddings, table, segments)
        normalised: Tensor = self.norm(embeddings)
        return normalised


def read(config: Json) -> Olmo2Config:
    demand(config, hidden_act="silu", attention_bias=False, attention_dropout=0.0)
    return Olmo2Config(**{key: config[key] for key in KEYS}, rope_theta=rotary(config)["rope_theta"])


def write(config: Olmo2Config) -> Json:
    kind: Json = {"architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "hidden_act": "silu"}
    return kind | config.model_dump() | {"attention_bias": False, "dtype": "float32"}


MODEL = with_decoder(Olmo2VLMConfig, Olmo2)
PUBLISHED = Language(read=read, write=write, name=plain("model.", {"lm_head.": "lm_head."}), model="olmo2")
