"""What training costs in arithmetic: known models and devices as data, and the formula between them.

Operations of a pass forward, per token: 2 for each parameter that it is multiplied with (Kaplan et al., arXiv
2001.08361, 2.1), and in attention 4 × layers × width × length (Chowdhery et al., arXiv 2204.02311, appendix B),
half of that where it is causal. A pass backward is as much for the gradients of the inputs, needed where the part
or one before it trains, and as much for those of the weights, needed where the part trains.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mindvl_data.errors import UserError
from mindvl_data.recipe.forecast import DeviceSize, ModelSize, Part, Tower

PARTS: tuple[Part, ...] = ("vision", "projector", "decoder")

_QWEN_VIT = Tower(parameters=631_000_000, layers=32, attention_width=1280)
_QWEN3_8B = Tower(parameters=7_568_000_000, layers=36, attention_width=4096)

# Decoders: without the input embedding, with the output head, from the layer sizes of the published config.json.
MODELS: Mapping[str, ModelSize] = {
    "open-qwen2vl-2b": ModelSize(
        vision=Tower(parameters=411_000_000, layers=27, attention_width=1152),
        projector=4_130_000,
        decoder=Tower(parameters=1_543_000_000, layers=28, attention_width=1536),
        source="SigLIP-SO400M/14-384 and Qwen2.5-1.5B, arXiv 2504.00595",
    ),
    "mindvl-8b": ModelSize(
        vision=_QWEN_VIT,
        projector=47_200_000,
        decoder=_QWEN3_8B,
        source="Qwen2.5-VL's tower and Qwen3-8B, arXiv 2509.11662",
    ),
    "mindvl-671b-a37b": ModelSize(
        vision=_QWEN_VIT,
        projector=62_900_000,
        decoder=Tower(parameters=37_000_000_000, layers=61, attention_width=20_480),
        source="Qwen2.5-VL's tower and DeepSeek-V3-0324 (37B active: arXiv 2412.19437), arXiv 2509.11662",
    ),
    "llava-onevision-1.5-4b": ModelSize(
        vision=Tower(parameters=302_000_000, layers=24, attention_width=1024),
        projector=27_300_000,
        decoder=Tower(parameters=4_022_000_000, layers=36, attention_width=4096),
        source="RICE-ViT-L/14 and Qwen3-4B, arXiv 2509.23661",
    ),
    "llava-onevision-1.5-8b": ModelSize(
        vision=Tower(parameters=302_000_000, layers=24, attention_width=1024),
        projector=33_600_000,
        decoder=_QWEN3_8B,
        source="RICE-ViT-L/14 and Qwen3-8B, arXiv 2509.23661",
    ),
}
DEVICES: Mapping[str, DeviceSize] = {
    "a100": DeviceSize(peak_flops=312e12, source="NVIDIA A100 data sheet, BFLOAT16 without sparsity"),
    "a800": DeviceSize(peak_flops=312e12, source="as A100: the interconnect is what differs"),
    "h100": DeviceSize(peak_flops=989.4e12, source="NVIDIA H100 SXM data sheet, half of the figure with sparsity"),
    "h200": DeviceSize(peak_flops=989.4e12, source="NVIDIA H200 SXM data sheet, half of the figure with sparsity"),
    "ascend-910b": DeviceSize(
        peak_flops=313e12, source="Atlas 800T A2 as commonly stated for FP16; Huawei has no public data sheet"
    ),
}


@dataclass(frozen=True)
class Workload:
    """What goes through a model: tokens of sequences of a mean length, and patches of images of a mean size.

    tokens hold the vision tokens, one for every `merge`² patches.
    """

    tokens: float
    length: float
    vision_tokens: float
    patches: float
    patches_per_image: float


def model_of(named: str | ModelSize) -> ModelSize:
    """The model of the table, or that given. Raises UserError naming those there are."""
    if isinstance(named, ModelSize):
        return named
    if named not in MODELS:
        raise UserError(f"forecast.model: there is no {named!r}; there are {', '.join(MODELS)}, or give its numbers")
    return MODELS[named]


def device_of(named: str | DeviceSize) -> DeviceSize:
    """The device of the table, or that given. Raises UserError naming those there are."""
    if isinstance(named, DeviceSize):
        return named
    if named not in DEVICES:
        raise UserError(f"forecast.device: there is no {named!r}; there are {', '.join(DEVICES)}, or give its peak")
    return DEVICES[named]


def training_flops(model: ModelSize, work: Workload, trains: Collection[Part] = PARTS) -> dict[Part, float]:
    """Operations of one pass over the work, forward and backward, by the part of the model."""
    forward: dict[Part, float] = {
        "vision": work.patches * _per_token(model.vision, 4 * work.patches_per_image),
        "projector": work.vision_tokens * 2 * model.projector,
        "decoder": work.tokens * _per_token(model.decoder, 2 * work.length),
    }
    return {part: operations * _passes(part, trains) for part, operations in forward.items()}


def _per_token(tower: Tower, attended: float) -> float:
    return 2 * tower.parameters + tower.layers * tower.attention_width * attended


def _passes(part: Part, trains: Collection[Part]) -> int:
    """The pass forward, that for the inputs' gradients, and that for the weights'."""
    earlier = PARTS[: PARTS.index(part) + 1]
    return 1 + any(before in trains for before in earlier) + (part in trains)
