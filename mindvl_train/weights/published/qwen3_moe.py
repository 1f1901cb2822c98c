"""Qwen3-MoE: configuration and names."""

from mindvl_train.models.decoder import DecoderConfig
from mindvl_train.models.moe import MoEConfig
from mindvl_train.weights.published.family import Json, Language, demand
from mindvl_train.weights.published.qwen import DENSE_KEYS, NAME, attends, sizes, write_sizes
from mindvl_train.weights.published.stacked import as_stored, stacked

EXPERT_KEYS = frozenset(
    [
        "decoder_sparse_step",
        "mlp_only_layers",
        "moe_intermediate_size",
        "norm_topk_prob",
        "num_experts",
        "num_experts_per_tok",
        "num_local_experts",
        "router_aux_loss_coef",
    ]
)


def read_experts(config: Json) -> MoEConfig:
    """The experts, from the keys of any version of transformers."""
    step, plain = config.get("decoder_sparse_step", 1), set(config.get("mlp_only_layers") or ())
    layers = range(config["num_hidden_layers"])
    return MoEConfig(
        # The second name is that of transformers 5.
        num_experts=config["num_experts"] if "num_experts" in config else config["num_local_experts"],
        num_experts_per_tok=config["num_experts_per_tok"],
        moe_intermediate_size=config["moe_intermediate_size"],
        norm_topk_prob=config["norm_topk_prob"],
        # Where a folder does not say: what transformers takes.
        aux_loss_coef=config.get("router_aux_loss_coef", 0.001),
        dense_layers=tuple(layer for layer in layers if layer in plain or (layer + 1) % step),
    )


def write_experts(config: DecoderConfig) -> Json | None:
    """The inverse of `read_experts`; None where the family has no such experts."""
    moe = config.moe
    if moe is None:
        return None
    if moe.scoring != "softmax" or moe.shared_size or moe.balance_speed is not None or moe.n_group > 1:
        return None
    return {
        "num_experts": moe.num_experts,
        "num_experts_per_tok": moe.num_experts_per_tok,
        "moe_intermediate_size": moe.moe_intermediate_size,
        "norm_topk_prob": moe.norm_topk_prob,
        "router_aux_loss_coef": moe.aux_loss_coef,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(moe.dense_layers),
    }


def _read(config: Json) -> DecoderConfig:
    demand(config, attention_bias=False)
    return DecoderConfig(**sizes(config), qk_norm=True, moe=read_experts(config))


def _write(config: DecoderConfig) -> Json | None:
    experts = write_experts(config)
    if experts is None or config.qkv_bias or not config.qk_norm or config.mrope_section or config.latent:
        return None
    if not attends(config):
        return None
    kind = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
    return {**kind, **write_sizes(config), "head_dim": config.head_dim, "attention_bias": False, **experts}


QWEN3_MOE = Language(
    read=_read,
    write=_write,
    name=stacked(NAME),
    name_by=as_stored(NAME),
    keys=DENSE_KEYS | EXPERT_KEYS | {"attention_bias"},
)
