"""Qwen2.5-VL: its vision tower and projector, alone or joined with its language model."""

from mindvl_data.vision import CLIP
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
from mindvl_train.weights.published.qwen import DENSE_KEYS, NAME, attends, sizes, write_sizes

# Published and ours under the same name, with what transformers takes where a folder does not say: version 4.49
# left out every value that was its default. Its default of `hidden_size` is that of no published tower.
DEFAULTS = {
    "depth": 32,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "tokens_per_second": 4,
}
FULL_ATTENTION = (7, 15, 23, 31)


def _read_vision(config: Json) -> VisionConfig:
    """From a folder of its own, or from the `vision_config` of a joint one."""
    config = config.get("vision_config", config)
    demand(config, hidden_act="silu")
    demand_tower_positions(config)
    return VisionConfig(
        hidden_size=config["hidden_size"],
        **{key: config.get(key, value) for key, value in DEFAULTS.items()},
        # `in_chans` in the folders of 2025, which transformers has never read: both say 3.
        in_channels=config.get("in_channels", config.get("in_chans", 3)),
        fullatt_block_indexes=tuple(config.get("fullatt_block_indexes", FULL_ATTENTION)),
    )


def _write_vision(config: VisionConfig, out_size: int) -> Json | None:
    if config.norm != "rms" or not config.gated or config.patch_bias or config.normalisation != CLIP:
        return None
    if config.num_position_embeddings or config.deepstack_visual_indexes:
        return None
    same = {key: getattr(config, key) for key in ("hidden_size", *DEFAULTS, "in_channels")}
    # A tower without windows is one whose layers are all full.
    layers = config.fullatt_block_indexes if config.window_size else range(config.depth)
    windows = {"window_size": config.window_size or 112, "fullatt_block_indexes": list(layers)}
    kind = {"model_type": "qwen2_5_vl_vision", "hidden_act": "silu", "out_hidden_size": out_size}
    return {**kind, **same, **windows}


def _write_vision_alone(config: VisionConfig, out_size: int) -> Json | None:
    architecture = {"architectures": ["Qwen2_5_VisionTransformerPretrainedModel"], "dtype": "float32"}
    written = _write_vision(config, out_size)
    return written and architecture | written


def _name_vision(prefix: str) -> Naming:
    others = plain(prefix)

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        if ours != "patch_embed.weight":
            return others(ours, shape)
        # Published as a convolution whose stride is its kernel. The sizes of its kernel are not needed: the
        # order of the values is the same, so any reader that knows them reshapes.
        side = round((shape[1] // 6) ** 0.5)
        return Origin((f"{prefix}patch_embed.proj.weight",), (shape[0], 3, 2, side, side))

    return name


def _name_projector(prefix: str) -> Naming:
    merger = {"norm.": "ln_q.", "fc1.": "mlp.0.", "fc2.": "mlp.2."}
    return plain("", {ours: f"{prefix}merger.{theirs}" for ours, theirs in merger.items()})


def _read_language(config: Json) -> DecoderConfig:
    text = config.get("text_config", config)
    tied = config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False)
    return DecoderConfig(**sizes(text | {"tie_word_embeddings": tied}), qkv_bias=True)


def _write_joint(vision: VisionConfig, decoder: DecoderConfig) -> Json | None:
    own_head_size = decoder.head_dim * decoder.num_attention_heads != decoder.hidden_size
    if not decoder.qkv_bias or decoder.qk_norm or not decoder.mrope_section or own_head_size or decoder.moe:
        return None
    tower = _write_vision(vision, decoder.hidden_size)
    if tower is None or decoder.mrope_interleaved or not attends(decoder):
        return None
    scaling = {"type": "mrope", "mrope_section": list(decoder.mrope_section)}
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **write_sizes(decoder),
        "rope_scaling": scaling,
        "vision_config": tower,
    }


KEYS = TOWER_KEYS | set(DEFAULTS) | {"hidden_size", "in_channels", "fullatt_block_indexes"}
ALONE = Vision(
    read=_read_vision,
    write=_write_vision_alone,
    name_vision=_name_vision(""),
    name_projector=_name_projector(""),
    keys=KEYS,
)
QWEN2_5_VL = Joint(
    language=Language(read=_read_language, write=lambda config: None, name=NAME, keys=DENSE_KEYS),
    vision=Vision(
        read=_read_vision,
        write=lambda config, out_size: None,
        name_vision=_name_vision("visual."),
        name_projector=_name_projector("visual."),
        keys=KEYS,
    ),
    write=_write_joint,
    aliases={"model.language_model.": "model.", "model.visual.": "visual."},
)
