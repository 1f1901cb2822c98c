"""Qwen3-VL, dense and with experts (arXiv 2511.21631): vision tower, mergers and decoder, joined or the tower alone."""

import re
from collections.abc import Callable

from mindvl_data.vision.resize import QWEN3_VL as PROCESSOR
from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.published.family import (
    TOWER_KEYS,
    Joint,
    Json,
    Language,
    Naming,
    Origin,
    Vision,
    demand,
    demand_tower_positions,
    plain,
)
from mindvl_train.weights.published.qwen import DENSE_KEYS, attends, sizes, write_sizes
from mindvl_train.weights.published.qwen3_moe import EXPERT_KEYS, read_experts, write_experts

# Published and ours under the same name, with what transformers takes where a folder does not say.
DEFAULTS = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": (8, 16, 24),
}
# What no published configuration says, for all say the same.
KIND = {"norm": "layer", "gated": False, "patch_bias": True, **PROCESSOR.normalisation._asdict()}
SECTION = (24, 20, 20)
MERGER = {"norm.": "norm.", "fc1.": "linear_fc1.", "fc2.": "linear_fc2."}
BLOCK = {".up_proj.": ".linear_fc1.", ".down_proj.": ".linear_fc2."}
EXPERTS = ".mlp.experts."


def read_vision(config: Json) -> VisionConfig:
    """From a folder of its own, or from the `vision_config` of a joint one."""
    config = config.get("vision_config", config)
    demand(config, hidden_act="gelu_pytorch_tanh")
    demand_tower_positions(config)
    return VisionConfig(**{key: config.get(key, value) for key, value in DEFAULTS.items()}, **KIND)


def write_vision(config: VisionConfig, out_size: int, kind: str) -> Json | None:
    """The `vision_config` of a model of this kind; None where the family has no such tower."""
    if config.window_size or any(getattr(config, key) != value for key, value in KIND.items()):
        return None
    if config.num_position_embeddings is None:
        return None
    same = {key: getattr(config, key) for key in DEFAULTS}
    layers = list(config.deepstack_visual_indexes)
    fixed = {"model_type": f"{kind}_vision", "hidden_act": "gelu_pytorch_tanh", "out_hidden_size": out_size}
    return {**fixed, **same, "deepstack_visual_indexes": layers}


def _write_vision_alone(config: VisionConfig, out_size: int) -> Json | None:
    written = write_vision(config, out_size, "qwen3_vl")
    return written and {"architectures": ["Qwen3VLVisionModel"], "dtype": "float32", **written}


def name_vision(prefix: str) -> Naming:
    """Of the tower's tensors."""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        if ours == "patch_embed.weight":
            # Published as a convolution whose stride is its kernel; the order of the values is the same.
            side = round((shape[1] // 6) ** 0.5)
            return Origin((f"{prefix}patch_embed.proj.weight",), (shape[0], 3, 2, side, side))
        if ours == "patch_embed.bias":
            return Origin((f"{prefix}patch_embed.proj.bias",), shape)
        for mine, theirs in BLOCK.items():
            ours = ours.replace(mine, theirs)
        return Origin((prefix + ours,), shape)

    return name


def name_projector(prefix: str) -> Naming:
    """Of the mergers' tensors."""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        deeper = re.match(r"deepstack\.(\d+)\.", ours)
        home = f"{prefix}deepstack_merger_list.{deeper[1]}." if deeper else f"{prefix}merger."
        return plain("", {mine: home + theirs for mine, theirs in MERGER.items()})(
            ours.removeprefix(deeper[0] if deeper else ""), shape
        )

    return name


def _read_dense(config: Json) -> DecoderConfig:
    return DecoderConfig(**_decoder(config))


def _read_sparse(config: Json) -> DecoderConfig:
    # Its weights always add up to 1: transformers has no key for it.
    text = {"norm_topk_prob": True} | config.get("text_config", config)
    demand(text, norm_topk_prob=True)
    return DecoderConfig(**_decoder(config), moe=read_experts(text))


def _decoder(config: Json) -> Json:
    text = config.get("text_config", config)
    demand(text, attention_bias=False)
    rotary = (text.get("rope_scaling") or {}) | (text.get("rope_parameters") or {})
    demand(rotary, mrope_interleaved=True)
    tied = config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False)
    read = sizes(text | {"tie_word_embeddings": tied})
    return {**read, "mrope_section": read["mrope_section"] or SECTION, "mrope_interleaved": True, "qk_norm": True}


def _write_joint(kind: str, architecture: str, experts: bool) -> Callable[[VisionConfig, DecoderConfig], Json | None]:
    def write(vision: VisionConfig, decoder: DecoderConfig) -> Json | None:
        written = write_vision(vision, decoder.hidden_size, kind)
        if written is None or not decoder.mrope_interleaved or not decoder.qk_norm or decoder.qkv_bias:
            return None
        if not attends(decoder):
            return None
        routed = write_experts(decoder) if experts else {}
        if routed is None or decoder.latent or bool(decoder.moe) != experts or not routed.get("norm_topk_prob", True):
            return None
        text = write_sizes(decoder)
        section = {
            "rope_type": "default",
            "mrope_interleaved": True,
            "mrope_section": list(decoder.mrope_section or ()),
        }
        own = {"head_dim": decoder.head_dim, "attention_bias": False, "rope_scaling": section}
        return {
            "architectures": [architecture],
            "model_type": kind,
            "tie_word_embeddings": decoder.tie_word_embeddings,
            "dtype": text["dtype"],
            "text_config": {"model_type": f"{kind}_text", **text, **own, **routed},
            "vision_config": written,
        }

    return write


def _fused(others: Naming) -> Naming:
    """Experts are published stacked, gate and up side by side, and transposed.

    A square would not tell which way it lies: transformers takes it for not transposed.
    """

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        before, found, projection = ours.partition(EXPERTS)
        if not found:
            return others(ours, shape)
        home = others(before, ()).names[0] + EXPERTS
        experts, out, into = shape
        if projection == "down_proj":
            return Origin((f"{home}down_proj",), (experts, into, out), transposed=into != out)
        half = ("gate_proj", "up_proj").index(projection)
        turned = into != 2 * out
        return Origin((f"{home}gate_up_proj",), (experts, into, 2 * out), (out, out), half, transposed=turned)

    return name


NAME = plain("model.language_model.", {"lm_head.": "lm_head."})
TOWER_SIZES = TOWER_KEYS | set(DEFAULTS)
ALONE = Vision(read_vision, _write_vision_alone, name_vision(""), name_projector(""), TOWER_SIZES)
TOWER = Vision(
    read_vision, lambda config, out_size: None, name_vision("model.visual."), name_projector("model.visual.")
)
QWEN3_VL = Joint(
    language=Language(read=_read_dense, write=lambda config: None, name=NAME, keys=DENSE_KEYS | {"attention_bias"}),
    vision=TOWER,
    write=_write_joint("qwen3_vl", "Qwen3VLForConditionalGeneration", experts=False),
)
QWEN3_VL_MOE = Joint(
    language=Language(
        read=_read_sparse,
        write=lambda config: None,
        name=_fused(NAME),
        keys=DENSE_KEYS | EXPERT_KEYS | {"attention_bias"},
    ),
    vision=TOWER,
    write=_write_joint("qwen3_vl_moe", "Qwen3VLMoeForConditionalGeneration", experts=True),
)
