"""Our layers are the published ones: with the same weights transformers' classes give the same output."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from mindvl_train.batch import collate
from mindvl_train.kernels.segments import Segments
from tests.mindvl_train.synthetic import LAYOUT, TINY_MODEL, image_sample, pack_of, tiny_model

DECODER = TINY_MODEL["decoder"]
PUBLISHED = {key: value for key, value in DECODER.items() if key not in ("qkv_bias", "qk_norm")}


@pytest.mark.parametrize(
    ("theirs", "config", "ours"),
    [
        (Qwen2ForCausalLM, Qwen2Config, {"qkv_bias": True, "qk_norm": False}),
        (Qwen3ForCausalLM, Qwen3Config, {"qkv_bias": False, "qk_norm": True}),
        (Qwen3ForCausalLM, Qwen3Config, {"qkv_bias": False, "qk_norm": True, "tie_word_embeddings": True}),
    ],
)
def test_the_decoder_is_that_of_qwen(theirs: Any, config: Any, ours: dict[str, bool]) -> None:
    decoder = tiny_model(**ours).decoder
    tied = ours.get("tie_word_embeddings", False)
    rope = {"rope_type": "default", "rope_theta": decoder.config.rope_theta}
    oracle = theirs(config(**PUBLISHED, tie_word_embeddings=tied, rope_parameters=rope)).eval()
    weights = {name if name.startswith("lm_head") else f"model.{name}": w for name, w in decoder.state_dict().items()}
    missing, unexpected = oracle.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if tied else [], [])
    ids = torch.arange(6, 29)
    with torch.no_grad():
        expected = oracle(ids[None], use_cache=False).logits[0]
        hidden = decoder(decoder.embed_tokens(ids), torch.arange(len(ids)), Segments((0, len(ids))))
        torch.testing.assert_close(hidden @ decoder.head.T, expected, atol=1e-5, rtol=1e-5)


def test_the_vision_tower_and_the_projector_are_those_of_qwen2_5_vl() -> None:
    model = tiny_model()
    sizes = TINY_MODEL["vision"]
    config = Qwen2_5_VLVisionConfig(
        **sizes, out_hidden_size=DECODER["hidden_size"], fullatt_block_indexes=list(range(sizes["depth"]))
    )
    oracle = Qwen2_5_VisionTransformerPretrainedModel(config).eval()
    weights = {
        **{f"{name}": weight for name, weight in model.vision.state_dict().items() if name.startswith("blocks.")},
        "patch_embed.proj.weight": model.vision.patch_embed.weight.reshape(-1, 3, 2, 14, 14),
        "merger.ln_q.weight": model.projector.norm.weight,
        "merger.mlp.0.weight": model.projector.fc1.weight,
        "merger.mlp.0.bias": model.projector.fc1.bias,
        "merger.mlp.2.weight": model.projector.fc2.weight,
        "merger.mlp.2.bias": model.projector.fc2.bias,
    }
    oracle.load_state_dict(weights)
    rng = np.random.default_rng(0)
    batch = collate([pack_of([image_sample(rng, grid, 2) for grid in ((4, 6), (2, 2), (10, 8))])], LAYOUT)
    with torch.no_grad():
        encoded = model.vision(batch.patches, batch.patch_positions, batch.image_segments, batch.window_segments)
        expected = oracle(batch.patches, grid_thw=torch.tensor([[1, 4, 6], [1, 2, 2], [1, 10, 8]]))
    torch.testing.assert_close(model.projector(encoded), expected.pooler_output, atol=1e-5, rtol=1e-5)
