"""Qwen3.5, dense and with experts: Qwen3-VL's tower without DeepStack, and a decoder of delta and attention layers.

In joint folders, or the language model alone.
"""

from collections.abc import Callable, Collection

from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.models.delta_net import DeltaConfig
from mindvl_train.models.moe import MoEConfig
from mindvl_train.models.vit import VisionConfig
from mindvl_train.weights.published.family import (
    Joint,
    Json,
    Language,
    Naming,
    Origin,
    Vision,
    demand,
    plain,
    tied_head,
)
from mindvl_train.weights.published.qwen import DENSE_KEYS, sizes, write_sizes
from mindvl_train.weights.published.qwen3_moe import EXPERT_KEYS, read_experts, write_experts
from mindvl_train.weights.published.qwen3_vl import TOWER_SIZES, name_projector, name_vision, read_vision, write_vision
from mindvl_train.weights.published.stacked import fused, one_by_one, stacked

# What transformers takes where a folder does not say.
HEAD_SIZE, ROTARY_SHARE, INTERVAL, SECTION = 256, 0.25, 4, (11, 11, 10)
# The last are of the layer that predicts a second token, and of kernels that keep their state in float32, as ours do.
KEYS = (
    DENSE_KEYS
    | EXPERT_KEYS
    | frozenset(
        [
            "attention_bias",
            "attn_output_gate",
            "full_attention_interval",
            "linear_conv_kernel_dim",
            "linear_key_head_dim",
            "linear_num_key_heads",
            "linear_num_value_heads",
            "linear_value_head_dim",
            "output_gate_type",
            "partial_rotary_factor",
            "shared_expert_intermediate_size",
            "mamba_ssm_dtype",
            "mtp_num_hidden_layers",
            "mtp_use_dedicated_embeddings",
        ]
    )
)
LINEAR, FULL = "linear_attention", "full_attention"
DELTA_SIZES = ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim", "conv_kernel_dim")
DELTA = ".linear_attn."
# Published in one tensor, one behind the other.
STREAMS = ("q", "k", "v")
MIXED = {"proj.weight": "in_proj_qkv.weight", "conv.weight": "conv1d.weight"}
OTHERS = {"gate_proj.": "in_proj_z.", "beta_proj.": "in_proj_b.", "decay_proj.": "in_proj_a.", "decay.": ""}


def _read_fields(config: Json) -> Json:
    """From the `text_config` of a joint folder, or from a language model's own; experts are left to the caller."""
    text = {"head_dim": HEAD_SIZE} | config.get("text_config", config)
    demand(text, attention_bias=False, attn_output_gate=True, output_gate_type="swish")
    rotary = text | (text.get("rope_scaling") or {}) | (text.get("rope_parameters") or {})
    demand(rotary, mrope_interleaved=True)
    tied = config.get("tie_word_embeddings", False) or text.get("tie_word_embeddings", False)
    read = sizes(text | {"tie_word_embeddings": tied})
    return {
        **read,
        "mrope_section": read["mrope_section"] or SECTION,
        "mrope_interleaved": True,
        "partial_rotary_factor": rotary.get("partial_rotary_factor", ROTARY_SHARE),
        "qk_norm": True,
        "output_gate": True,
        "zero_centred_norm": True,
        "delta": _read_delta(text),
    }


def _read_delta(text: Json) -> DeltaConfig:
    layers, interval = range(text["num_hidden_layers"]), text.get("full_attention_interval", INTERVAL)
    kinds = text.get("layer_types") or [LINEAR if (layer + 1) % interval else FULL for layer in layers]
    full = tuple(layer for layer in layers if kinds[layer] == FULL)
    return DeltaConfig(**{key: text[f"linear_{key}"] for key in DELTA_SIZES}, full_attention_layers=full)


def _read_dense(config: Json) -> DecoderConfig:
    return DecoderConfig(**_read_fields(config))


def _read_sparse(config: Json) -> DecoderConfig:
    # The weights of the chosen always add up to 1: transformers has no key for it.
    text = {"norm_topk_prob": True} | config.get("text_config", config)
    demand(text, norm_topk_prob=True)
    shared = {"shared_expert_intermediate_size": text["shared_expert_intermediate_size"], "shared_expert_gate": True}
    experts = MoEConfig(**read_experts(text).model_dump() | shared)
    # No layer is without experts, so that nothing has this width.
    text["intermediate_size"] = experts.moe_intermediate_size
    tied = config.get("tie_word_embeddings", False)
    return DecoderConfig(**_read_fields({"tie_word_embeddings": tied, **text}), moe=experts)


def _write_dense(config: DecoderConfig) -> Json | None:
    return None if config.moe else _write_fields(config)


def _write_sparse(config: DecoderConfig) -> Json | None:
    moe, fields = config.moe, _write_fields(config)
    if fields is None or moe is None or not moe.shared_expert_gate or moe.dense_layers or not moe.norm_topk_prob:
        return None
    gated = {"shared_expert_gate": False, "shared_expert_intermediate_size": 0}
    experts = write_experts(config.model_copy(update={"moe": moe.model_copy(update=gated)}))
    if experts is None:
        return None
    kept = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef")
    shared = {"shared_expert_intermediate_size": moe.shared_size}
    return {**fields, **{key: experts[key] for key in kept}, **shared}


def _write_fields(config: DecoderConfig) -> Json | None:
    """The inverse of `_read_fields`; None where the family has no such decoder."""
    delta = config.delta
    if delta is None or not config.output_gate or not config.zero_centred_norm or not config.qk_norm:
        return None
    if config.qkv_bias or config.latent or config.yarn or not config.mrope_interleaved or not config.mrope_section:
        return None
    rotary = {
        "rope_type": "default",
        "rope_theta": config.rope_theta,
        "partial_rotary_factor": config.partial_rotary_factor,
        "mrope_section": list(config.mrope_section),
        "mrope_interleaved": True,
    }
    layers = range(config.num_hidden_layers)
    return {
        **write_sizes(config),
        **{f"linear_{key}": getattr(delta, key) for key in DELTA_SIZES},
        "head_dim": config.head_dim,
        "attention_bias": False,
        "attn_output_gate": True,
        "layer_types": [LINEAR if config.remembers(layer) else FULL for layer in layers],
        "rope_parameters": rotary,
    }


Write = Callable[[DecoderConfig], Json | None]


def _write_joint(kind: str, architecture: str, write: Write) -> Callable[[VisionConfig, DecoderConfig], Json | None]:
    def joint(vision: VisionConfig, decoder: DecoderConfig) -> Json | None:
        text, tower = write(decoder), write_vision(vision, decoder.hidden_size, kind)
        if text is None or tower is None or tower.pop("deepstack_visual_indexes"):
            return None
        return {
            "architectures": [architecture],
            "model_type": kind,
            "tie_word_embeddings": decoder.tie_word_embeddings,
            "dtype": text["dtype"],
            "text_config": {"model_type": f"{kind}_text", **text},
            "vision_config": tower,
        }

    return joint


def _write_alone(kind: str, architecture: str, write: Write) -> Write:
    def alone(decoder: DecoderConfig) -> Json | None:
        text = write(decoder)
        return text and {"architectures": [architecture], "model_type": f"{kind}_text", **text}

    return alone


def _read_tower(config: Json) -> VisionConfig:
    return read_vision({"deepstack_visual_indexes": (), **config.get("vision_config", config)})


def _naming(prefix: str) -> Callable[[DecoderConfig, Collection[str]], Naming]:
    """The names below `prefix`: what a delta layer's tensors have in common tells the configuration alone, and how
    experts are laid down the folder."""

    def by(config: DecoderConfig, stored: Collection[str]) -> Naming:
        assert config.delta is not None, "every decoder of the family has delta layers"
        layout = stacked if one_by_one(stored) else fused
        others = layout(_shared(plain(prefix, {"lm_head.": "lm_head."})))
        return _mixed(others, (config.delta.key_size, config.delta.key_size, config.delta.value_size))

    return by


def _mixed(others: Naming, parts: tuple[int, int, int]) -> Naming:
    """Queries, keys and values of a delta layer, and their filters, are published together."""

    def name(ours: str, shape: tuple[int, ...]) -> Origin:
        before, found, own = ours.partition(DELTA)
        if not found:
            return others(ours, shape)
        home = others(before, ()).names[0] + DELTA
        stream, _, kind = own.partition("_")
        if stream not in STREAMS:
            return plain(home, {mine: home + theirs for mine, theirs in OTHERS.items()})(own, shape)
        # The filters are published as a convolution of one channel each.
        whole = (sum(parts), *([1] if kind == "conv.weight" else []), shape[1])
        return Origin((home + MIXED[kind],), whole, parts, STREAMS.index(stream), along=0)

    return name


def _shared(others: Naming) -> Naming:
    return lambda ours, shape: others(ours.replace(".shared_experts.", ".shared_expert."), shape)


def _unused(config: DecoderConfig) -> tuple[str, ...]:
    """The layer that predicts a second token has no place in ours."""
    return (*tied_head(config), "mtp.*")


def _language(prefix: str, read: Callable[[Json], DecoderConfig], write: Write) -> Language:
    return Language(read=read, write=write, name=plain(prefix), name_by=_naming(prefix), unused=_unused, keys=KEYS)


def _joint(kind: str, architecture: str, read: Callable[[Json], DecoderConfig], write: Write) -> Joint:
    return Joint(
        language=_language("model.language_model.", read, lambda config: None),
        vision=Vision(
            _read_tower,
            lambda config, out_size: None,
            name_vision("model.visual."),
            name_projector("model.visual."),
            TOWER_SIZES,
        ),
        write=_write_joint(kind, architecture, write),
    )


QWEN3_5 = _joint("qwen3_5", "Qwen3_5ForConditionalGeneration", _read_dense, _write_dense)
QWEN3_5_MOE = _joint("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", _read_sparse, _write_sparse)
TEXT = _language("model.", _read_dense, _write_alone("qwen3_5", "Qwen3_5ForCausalLM", _write_dense))
TEXT_MOE = _language("model.", _read_sparse, _write_alone("qwen3_5_moe", "Qwen3_5MoeForCausalLM", _write_sparse))
# Read alone; written as Qwen3-VL's of which no layer enters the decoder.
TOWER = Vision(_read_tower, lambda config, out_size: None, name_vision(""), name_projector(""), TOWER_SIZES)
