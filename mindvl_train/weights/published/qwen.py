"""Qwen2.5 and Qwen3 (dense): configurations and names."""

from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.weights.published.family import Json, Language, PublishedError, demand, plain

NAME = plain("model.", {"lm_head.": "lm_head."})
# Published and ours under the same name.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


# What `sizes` reads besides, and what says nothing beside it: windows that slide nowhere.
DENSE_KEYS = frozenset(SIZES) | frozenset(
    [
        "attention_dropout",
        "head_dim",
        "hidden_act",
        "layer_types",
        "max_window_layers",
        "rms_norm_eps",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "sliding_window",
        "tie_word_embeddings",
        "use_mrope",
        "use_sliding_window",
    ]
)


def rotary(config: Json) -> Json:
    """The rotary settings, from the keys of transformers 5 or of those before it."""
    settings = config | (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise PublishedError(f"config.json: the rotary positions are of type {kind!r}; default and mrope are supported")
    section = settings.get("mrope_section")
    return {"rope_theta": settings["rope_theta"], "mrope_section": tuple(section) if section else None}


def sizes(config: Json) -> Json:
    """What every dense family says alike."""
    demand(config, hidden_act="silu", use_sliding_window=False, attention_dropout=0.0)
    return {
        **{key: config[key] for key in SIZES},
        "head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
        "rms_norm_eps": config["rms_norm_eps"],
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        **rotary(config),
    }


def write_sizes(config: DecoderConfig) -> Json:
    """The inverse of `sizes`, under the keys that every version of transformers reads."""
    return {
        **{key: getattr(config, key) for key in SIZES},
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "dtype": "float32",
    }


def attends(config: DecoderConfig) -> bool:
    """Whether a decoder is of the kind before Qwen3.5: full attention in every layer, without a gate, its norms scaled
    by their weights, its heads turned whole."""
    plain_norms = not config.zero_centred_norm and config.partial_rotary_factor == 1.0
    return plain_norms and not config.delta and not config.output_gate


def _read_qwen2(config: Json) -> DecoderConfig:
    return DecoderConfig(**sizes(config), qkv_bias=True)


def _write_qwen2(config: DecoderConfig) -> Json | None:
    own_head_size = config.head_dim * config.num_attention_heads != config.hidden_size
    if not config.qkv_bias or config.qk_norm or config.mrope_section or own_head_size or config.moe:
        return None
    if not attends(config):
        return None
    return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **write_sizes(config)}


def _read_qwen3(config: Json) -> DecoderConfig:
    demand(config, attention_bias=False)
    return DecoderConfig(**sizes(config), qk_norm=True)


def _write_qwen3(config: DecoderConfig) -> Json | None:
    if config.qkv_bias or not config.qk_norm or config.mrope_section or config.moe or not attends(config):
        return None
    kind: Json = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": config.head_dim}
    return {**kind, "attention_bias": False, **write_sizes(config)}


QWEN2 = Language(read=_read_qwen2, write=_write_qwen2, name=NAME, keys=DENSE_KEYS)
QWEN3 = Language(read=_read_qwen3, write=_write_qwen3, name=NAME, keys=DENSE_KEYS | {"attention_bias"})
