"""The arithmetic of a step, for the share of the hardware's peak that a run reaches.

Counted is what the model asks for: real tokens, the attention of packed segments and of the frames and windows of
images as they are, the experts that a token meets. What is computed twice to save memory counts once.
"""

from collections.abc import Collection, Mapping
from math import prod
from typing import Any

from mindvl_train.data.batch import Batch
from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.models.vit import VisionConfig

# A product of matrices takes two operations an entry; attention is two products.
PRODUCT, ATTENTION = 2, 4


def passes(trained: Collection[str]) -> dict[str, int]:
    """How often a part's forward arithmetic is done, in effect.

    Three times where it trains (outputs, and gradients of inputs and of weights), twice where gradients only pass
    through, once where none does.

    Args:
        trained: names of the parameters that train.
    """
    found: dict[str, int] = {}
    earlier = False
    for part in ("vision", "projector", "decoder"):
        trains = any(name.startswith(f"{part}.") for name in trained)
        found[part] = 3 if trains else 2 if earlier else 1
        earlier = earlier or trains
    return found


def batch_flops(config: Any, batch: Batch, times: Mapping[str, int], share: int) -> float:
    """Floating-point operations of one micro-batch on one rank.

    Args:
        config: of the model: has `vision` and `decoder`.
        batch: what the rank has of it.
        times: by part, as `passes` gives them.
        share: ranks that share the micro-batch, and its attention.
    """
    decoder = len(batch.real) * _of_token(config.decoder) + len(batch.targets) * _of_target(config.decoder)
    decoder += batch.attention_cost / share * _of_pair(config.decoder)
    if batch.num_masked_features:
        alone: float = decoder * times["decoder"]
        return alone
    merged = config.vision.hidden_size * config.vision.spatial_merge_size**2
    features = len(batch.patches) / config.vision.spatial_merge_size**2
    mergers = 1 + len(config.vision.deepstack_visual_indexes)
    projector = mergers * features * PRODUCT * merged * (merged + config.decoder.hidden_size)
    vision = _of_images(config.vision, batch)
    whole: float = decoder * times["decoder"] + projector * times["projector"] + vision * times["vision"]
    return whole


def _of_token(config: DecoderConfig) -> float:
    """All layers, without attention between tokens."""
    size, moe = config.hidden_size, config.moe
    dense = PRODUCT * 3 * size * config.intermediate_size
    sparse = 0
    if moe is not None:
        met = moe.num_experts_per_tok * moe.moe_intermediate_size + moe.shared_size
        sparse = PRODUCT * size * (3 * met + moe.num_experts + moe.shared_expert_gate)
    layers = range(config.num_hidden_layers)
    fed = sum(sparse if config.is_sparse(layer) else dense for layer in layers)
    attending = _attending(config)
    return fed + PRODUCT * (attending * _projections(config) + (len(layers) - attending) * _state(config))


def _attending(config: DecoderConfig) -> int:
    """Layers that attend; the others remember."""
    return sum(not config.remembers(layer) for layer in range(config.num_hidden_layers))


def _projections(config: DecoderConfig) -> int:
    """Entries of the matrices around one layer's attention."""
    size, heads, latent = config.hidden_size, config.num_attention_heads, config.latent
    if latent is None:
        return size * config.head_dim * (2 * (heads + config.num_key_value_heads) + heads * config.output_gate)
    head = latent.qk_nope_head_dim + latent.qk_rope_head_dim
    rank = latent.q_lora_rank
    query = size * heads * head if rank is None else rank * (size + heads * head)
    key = size * (latent.kv_lora_rank + latent.qk_rope_head_dim)
    expanded = latent.kv_lora_rank * heads * (latent.qk_nope_head_dim + latent.v_head_dim)
    return query + key + expanded + heads * latent.v_head_dim * size


def _state(config: DecoderConfig) -> int:
    """Entries that a token meets in a layer that remembers: the matrices around its state, and the state three times,
    read with the key, written and read with the query. Whole chunks take more; that is how, and not what, is computed.
    """
    delta, size = config.delta, config.hidden_size
    if delta is None:
        return 0
    around = size * (2 * delta.key_size + 3 * delta.value_size + 2 * delta.num_value_heads)
    return around + 3 * delta.value_size * delta.key_head_dim


def _of_pair(config: DecoderConfig) -> float:
    """All layers that attend, for l² pairs of tokens in a segment, of which causal attention looks at half."""
    latent = config.latent
    key = value = config.head_dim
    if latent is not None:
        key, value = latent.qk_nope_head_dim + latent.qk_rope_head_dim, latent.v_head_dim
    return _attending(config) * config.num_attention_heads * (key + value) * PRODUCT / 2


def _of_target(config: DecoderConfig) -> int:
    return PRODUCT * config.hidden_size * config.vocab_size


def _of_images(config: VisionConfig, batch: Batch) -> float:
    size = config.hidden_size
    block = PRODUCT * (4 * size * size + (3 if config.gated else 2) * size * config.intermediate_size)
    linear = len(batch.patches) * (PRODUCT * prod(config.patch_shape) * size + config.depth * block)
    whole = config.depth if config.window_size is None else len(config.fullatt_block_indexes)
    frames, windows = (
        sum(length**2 for length in segments.lengths) for segments in (batch.image_segments, batch.window_segments)
    )
    return linear + ATTENTION * size * (whole * frames + (config.depth - whole) * windows)
