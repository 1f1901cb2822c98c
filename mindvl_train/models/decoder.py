"""A decoder over a packed stream.

By configuration Qwen2.5 (q, k, v biases), Qwen3 (q, k norms), Qwen3-MoE (`moe`), that of Qwen3-VL
(`mrope_interleaved`), Qwen3.5 (`delta`, `output_gate`, `zero_centred_norm`) or DeepSeek-V3 (`moe`, `latent`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from mindvl_train.kernels.registry import Kernels
from mindvl_train.kernels.segments import Segments
from mindvl_train.models.delta_net import DeltaConfig, GatedDeltaNet
from mindvl_train.models.latent_attention import LatentAttention, LatentConfig
from mindvl_train.models.layers import (
    FeedForward,
    RMSNorm,
    ZeroCentredRMSNorm,
    inverse_frequencies,
    rotary_table,
)
from mindvl_train.models.moe import MixtureOfExperts, MoEConfig
from mindvl_train.models.yarn import Yarn

# A configuration of a few bytes must not make a model without end.
MOST_LAYERS = 1024


class DecoderConfig(BaseModel):
    """Sizes of the decoder, under the names of the published `config.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int = Field(ge=1, le=MOST_LAYERS)
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    # Frequencies that turn with time, with height and with width; None: all turn with the place in the text.
    mrope_section: tuple[int, int, int] | None = None
    # Whether these frequencies take turns, and not one section follows the other (Qwen3-VL, arXiv 2511.21631).
    mrope_interleaved: bool = False
    # The share of a head's dimensions, its first ones, that turn with the position.
    partial_rotary_factor: float = 1.0
    qkv_bias: bool = False
    qk_norm: bool = False
    # Whether what a head has attended to passes a gate of its token's own, out of `q_proj` with its query.
    output_gate: bool = False
    # Whether norms scale by 1 + weight.
    zero_centred_norm: bool = False
    tie_word_embeddings: bool = False
    moe: MoEConfig | None = None
    latent: LatentConfig | None = None
    yarn: Yarn | None = None
    # Of the layers that remember; None: all attend.
    delta: DeltaConfig | None = None

    @model_validator(mode="after")
    def _sections_fit(self) -> "DecoderConfig":
        if self.mrope_section and sum(self.mrope_section) != self.rotary_size // 2:
            raise ValueError(
                f"mrope_section {list(self.mrope_section)} does not add up to half of the {self.rotary_size} rotary "
                "dimensions of a head"
            )
        if self.rotary_size % 2:
            raise ValueError(
                f"partial_rotary_factor {self.partial_rotary_factor} of a head of {self.head_dim} is an odd number of "
                "dimensions, which do not pair"
            )
        return self

    @model_validator(mode="after")
    def _latent_alone(self) -> "DecoderConfig":
        if self.latent and (self.output_gate or self.partial_rotary_factor != 1.0):
            raise ValueError("latent attention has no output_gate and no partial_rotary_factor")
        return self

    @property
    def rotary_axes(self) -> list[int]:
        """For every rotary frequency the axis (0 time, 1 height, 2 width) that it turns with, by `mrope_section`."""
        sections = self.mrope_section or (self.rotary_size // 2, 0, 0)
        if not self.mrope_interleaved:
            return [axis for axis, section in enumerate(sections) for _ in range(section)]
        # Every third frequency is one of height, every third one of width, until theirs are used up.
        turns = [place % 3 for place in range(sum(sections))]
        return [axis if place < 3 * sections[axis] else 0 for place, axis in enumerate(turns)]

    @property
    def rotary_size(self) -> int:
        """Dimensions of a head that turn with the position."""
        return self.latent.qk_rope_head_dim if self.latent else int(self.head_dim * self.partial_rotary_factor)

    def remembers(self, layer: int) -> bool:
        """Whether a layer has a state in place of attention."""
        return self.delta is not None and layer not in self.delta.full_attention_layers

    def normalise(self, size: int, kernels: Kernels) -> RMSNorm:
        """A norm over `size` features, of the decoder's kind."""
        kind = ZeroCentredRMSNorm if self.zero_centred_norm else RMSNorm
        return kind(size, self.rms_norm_eps, kernels)

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return self.moe is not None and layer not in self.moe.dense_layers


class DecoderAttention(nn.Module):
    """Causal attention with fewer key-value heads than query heads (arXiv 2305.13245)."""

    def __init__(self, config: DecoderConfig, kernels: Kernels) -> None:
        super().__init__()
        size, head_dim = config.hidden_size, config.head_dim
        kv_size, width = config.num_key_value_heads * head_dim, 2 if config.output_gate else 1
        self.q_proj = nn.Linear(size, width * config.num_attention_heads * head_dim, bias=config.qkv_bias)
        self.k_proj = nn.Linear(size, kv_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(size, kv_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.num_attention_heads * head_dim, size, bias=False)
        self.q_norm = config.normalise(head_dim, kernels) if config.qk_norm else nn.Identity()
        self.k_norm = config.normalise(head_dim, kernels) if config.qk_norm else nn.Identity()
        self.head_dim = head_dim
        self.gated = config.output_gate
        self.kernels = kernels

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], segments: Segments) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]."""
        heads = (-1, self.head_dim)
        # Of every head its query, and behind it its gate, if it has one.
        asked = self.q_proj(hidden).unflatten(-1, (-1, 1 + self.gated, self.head_dim))
        query = self._turned(self.q_norm(asked[..., 0, :]), rotary)
        key = self._turned(self.k_norm(self.k_proj(hidden).unflatten(-1, heads)), rotary)
        value = self.v_proj(hidden).unflatten(-1, heads)
        attended = self.kernels.attention(query, key, value, segments, causal=True)
        if self.gated:
            attended = attended * asked[..., 1, :].sigmoid()
        projected: Tensor = self.o_proj(attended.flatten(1))
        return projected

    def _turned(self, heads: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """[T, heads, head_dim] with as many of the first dimensions turned as there are angles for."""
        size = rotary[0].shape[-1]
        turned = self.kernels.rotary(heads[..., :size], *rotary)
        return turned if size == self.head_dim else torch.cat((turned, heads[..., size:]), dim=-1)


class DecoderLayer(nn.Module):
    """Attention, or a state, and feed-forward, each behind a norm and around a residual."""

    def __init__(self, config: DecoderConfig, layer: int, kernels: Kernels) -> None:
        super().__init__()
        size = config.hidden_size
        self.input_layernorm = config.normalise(size, kernels)
        self.remembers = config.remembers(layer)
        if config.delta and self.remembers:
            self.linear_attn = GatedDeltaNet(config.delta, size, config.rms_norm_eps, kernels)
        elif config.latent:
            self.self_attn: nn.Module = LatentAttention(
                config.latent, size, config.num_attention_heads, config.yarn, kernels
            )
        else:
            self.self_attn = DecoderAttention(config, kernels)
        self.post_attention_layernorm = config.normalise(size, kernels)
        self.mlp: nn.Module = (
            MixtureOfExperts(config.moe, size, kernels)
            if config.moe and config.is_sparse(layer)
            else FeedForward(size, config.intermediate_size, kernels, bias=False)
        )

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], segments: Segments, real: Tensor) -> Tensor:
        """[T, hidden_size] → [T, hidden_size]; `real` are the tokens that are not padding."""
        normalised = self.input_layernorm(hidden)
        if self.remembers:
            attended: Tensor = hidden + self.linear_attn(normalised, segments)
        else:
            attended = hidden + self.self_attn(normalised, rotary, segments)
        normalised = self.post_attention_layernorm(attended)
        sparse = isinstance(self.mlp, MixtureOfExperts)
        fed: Tensor = attended + (self.mlp(normalised, real) if sparse else self.mlp(normalised))
        return fed


class Deepstack(NamedTuple):
    """What is added to the hidden states of image tokens: `tokens` [P] int64, and behind layer i `features[i]`
    [P, hidden_size]."""

    tokens: Tensor
    features: Sequence[Tensor]


class Decoder(nn.Module):
    """Embeddings → hidden states. The head is applied by the loss, which may do without the whole logits."""

    def __init__(self, config: DecoderConfig, kernels: Kernels) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer, kernels) for layer in range(config.num_hidden_layers))
        self.norm = config.normalise(config.hidden_size, kernels)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def head(self) -> Tensor:
        """[vocab_size, hidden_size]: what turns hidden states into logits; the embedding where it is tied."""
        return self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def forward(
        self,
        embeddings: Tensor,
        positions: Tensor,
        segments: Segments,
        real: Tensor,
        deepstack: Deepstack | None = None,
    ) -> Tensor:
        """Decodes a packed stream.

        Args:
            embeddings: [T, hidden_size].
            positions: [T] int64, or [3, T] with `mrope_section`; they restart at 0 in every segment.
            segments: their boundaries.
            real: [R] int64, the tokens that are not padding.
            deepstack: features of inner layers of the vision tower.

        Returns:
            [T, hidden_size], normalised.
        """
        rotary = self._rotary(positions)
        hidden = embeddings
        deeper = deepstack.features if deepstack else ()
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, rotary, segments, real)
            if deepstack and index < len(deeper):
                hidden = hidden.index_add(0, deepstack.tokens, deeper[index])
        normalised: Tensor = self.norm(hidden)
        return normalised

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        frequencies = inverse_frequencies(self.config.rotary_size, self.config.rope_theta, positions.device)
        if self.config.yarn:
            frequencies = self.config.yarn.stretch(frequencies, self.config.rope_theta)
        angles = positions.float().unsqueeze(-1) * frequencies
        if self.config.mrope_section is not None:
            axes = torch.tensor(self.config.rotary_axes, device=angles.device).expand(1, *angles.shape[1:])
            angles = angles.gather(0, axes).squeeze(0)
        return rotary_table(angles, self.config.yarn.rotary_scale if self.config.yarn else 1.0)
