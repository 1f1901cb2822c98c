"""DeepSeek-V3: configuration and names. Its extra layer that predicts a second token is left out."""

from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.models.latent_attention import LatentConfig
from mindvl_train.models.moe import MoEConfig
from mindvl_train.models.yarn import Yarn
from mindvl_train.weights.published.family import Json, Language, PublishedError, demand
from mindvl_train.weights.published.qwen import NAME, SIZES, attends
from mindvl_train.weights.published.stacked import as_stored, stacked

LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
# Published and ours under the same name.
MOE = ("num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob", "n_group", "topk_group")
YARN = ("factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
# Of the bias after a step (arXiv 2412.19437, 4.2); no `config.json` holds it.
BALANCE_SPEED = 0.001


def _read(config: Json) -> DecoderConfig:
    demand(config, hidden_act="silu", attention_bias=False, attention_dropout=0.0, rope_interleave=True)
    demand(config, scoring_func="sigmoid", topk_method="noaux_tc", moe_layer_freq=1)
    latent = LatentConfig(**{key: config[key] for key in LATENT})
    moe = MoEConfig(
        **{key: config[key] for key in (*MOE, "routed_scaling_factor")},
        num_experts=config["n_routed_experts"],
        num_shared_experts=config["n_shared_experts"],
        dense_layers=tuple(range(config["first_k_dense_replace"])),
        scoring="sigmoid",
        balance_speed=BALANCE_SPEED,
    )
    return DecoderConfig(
        **{key: config[key] for key in SIZES},
        head_dim=latent.qk_nope_head_dim + latent.qk_rope_head_dim,
        rms_norm_eps=config["rms_norm_eps"],
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        moe=moe,
        latent=latent,
        **_rotary(config),
    )


def _rotary(config: Json) -> Json:
    scaling = (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", "yarn"):
        raise PublishedError(f"config.json: the rotary positions are of type {kind!r}; default and yarn are supported")
    # Without `mscale` the other one scales no cosines.
    stated = {"mscale": 0.0} | {key: scaling[key] for key in YARN if scaling.get(key) is not None}
    yarn = Yarn(**stated) if kind == "yarn" else None
    return {"rope_theta": scaling.get("rope_theta") or config["rope_theta"], "yarn": yarn}


def _write(config: DecoderConfig) -> Json | None:
    moe, latent = config.moe, config.latent
    if moe is None or latent is None or moe.scoring != "sigmoid" or moe.balance_speed is None:
        return None
    if moe.dense_layers != tuple(range(len(moe.dense_layers))) or config.mrope_section or not attends(config):
        return None
    if moe.shared_expert_gate or moe.shared_expert_intermediate_size is not None:
        return None
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        **{key: getattr(config, key) for key in SIZES},
        **{key: getattr(latent, key) for key in LATENT},
        **{key: getattr(moe, key) for key in (*MOE, "routed_scaling_factor")},
        "n_routed_experts": moe.num_experts,
        "n_shared_experts": moe.num_shared_experts,
        "first_k_dense_replace": len(moe.dense_layers),
        "moe_layer_freq": 1,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "num_nextn_predict_layers": 0,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": {"type": "yarn", **config.yarn.model_dump()} if config.yarn else None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": "float32",
    }


def _unused(config: DecoderConfig) -> tuple[str, ...]:
    head = ("lm_head.weight",) if config.tie_word_embeddings else ()
    return (*head, f"model.layers.{config.num_hidden_layers}.*")


KEYS = (
    frozenset(SIZES)
    | set(LATENT)
    | set(MOE)
    | frozenset(
        [
            "attention_bias",
            "attention_dropout",
            "aux_loss_alpha",
            "ep_size",
            "first_k_dense_replace",
            "head_dim",
            "hidden_act",
            "moe_layer_freq",
            "n_routed_experts",
            "n_shared_experts",
            "num_local_experts",
            "num_nextn_predict_layers",
            "pretraining_tp",
            "qk_head_dim",
            "rms_norm_eps",
            "rope_interleave",
            "rope_parameters",
            "rope_scaling",
            "rope_theta",
            "routed_scaling_factor",
            "scoring_func",
            "seq_aux",
            "tie_word_embeddings",
            "topk_method",
        ]
    )
)
DEEPSEEK_V3 = Language(
    read=_read,
    write=_write,
    name=stacked(NAME),
    name_by=as_stored(NAME),
    unused=_unused,
    keys=KEYS,
    rotary_keys=frozenset(YARN),
)
