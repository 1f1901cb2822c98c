"""The arithmetic that is counted by formula is the arithmetic that torch counts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mindvl_train.data.batch import collate
from mindvl_train.kernels.delta_rule import CHUNK
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.models.flops import _of_pair, batch_flops, passes
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig
from tests.mindvl_train.synthetic import (
    LAYOUT,
    QWEN3_5,
    QWEN3_VISION,
    SHARED_EXPERT,
    TINY_MODEL,
    VIDEO_PAD,
    image_sample,
    pack_of,
    text_sample,
    video_sample,
)

MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_shared_experts": 1}
LATENT = {"q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 6}
DECODERS: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": {"moe": MOE | {"dense_layers": (0,)}},
    "remembering": QWEN3_5 | {"moe": SHARED_EXPERT},
    "latent": {"latent": LATENT, "qkv_bias": False, "qk_norm": False},
}


VISIONS: list[dict[str, Any]] = [{}, {"window_size": 56, "fullatt_block_indexes": (1,)}, QWEN3_VISION]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("vision", VISIONS, ids=["whole", "windows", "deepstack"])
def test_a_forward_pass_is_counted_exactly(decoder: str, vision: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    samples = [image_sample(rng, (8, 6), 9), video_sample(rng, (3, 6, 4), 5), text_sample(rng, 30)]
    packs = [pack_of(samples), pack_of([text_sample(rng, 51)])]
    config = VLMConfig(vision=TINY_MODEL["vision"] | vision, decoder=TINY_MODEL["decoder"] | DECODERS[decoder])
    with torch.device("meta"):
        model = VLM(config, resolve(KernelConfig(), "cpu"))
    give_weights(model, 0, torch.device("cpu"))
    axes = 3 if config.decoder.mrope_section else 1
    layout = replace(LAYOUT, window=config.vision.window, video_pad=VIDEO_PAD, position_axes=axes)
    batch = collate(packs, layout)
    # Written out as products, which torch counts; its fused kernel for CPUs it does not.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch)
    once = {"vision": 1, "projector": 1, "decoder": 1}
    # Torch counts every pair of tokens, though a causal kernel looks at half of them.
    masked = batch.attention_cost * _of_pair(config.decoder)
    chunked = _of_chunks(config.decoder, len(batch.ids))
    assert batch_flops(config, batch, once, share=1) + masked + chunked == counter.get_total_flops()


def _of_chunks(config: DecoderConfig, tokens: int) -> int:
    """What whole chunks of the delta rule take beyond a token after the other, in the layers that remember."""
    delta = config.delta
    if delta is None:
        return 0
    key, value, chunks = delta.key_head_dim, delta.value_head_dim, -(-tokens // CHUNK)
    inside = chunks * CHUNK**2 * (2 * key + value)
    states = (chunks * CHUNK - tokens) * 3 * key * value
    layers = sum(config.remembers(layer) for layer in range(config.num_hidden_layers))
    return layers * 2 * delta.num_value_heads * (inside + states)


def test_what_does_not_train_costs_less() -> None:
    assert passes({"vision.a", "projector.b", "decoder.c"}) == {"vision": 3, "projector": 3, "decoder": 3}
    assert passes({"projector.b"}) == {"vision": 1, "projector": 3, "decoder": 2}
    assert passes({"decoder.c"}) == {"vision": 1, "projector": 1, "decoder": 3}
