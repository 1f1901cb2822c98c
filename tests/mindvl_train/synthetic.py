"""Made-up samples, packs, data sets and a model small enough to train in a test."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from mindvl_data.manifest import FORMAT_VERSION, write_manifest
from mindvl_data.shards import (
    Pack,
    PackImage,
    attention_cost,
    content_id,
    pack_digest,
    shard_name,
    vision_cost,
    write_shard,
)
from mindvl_data.vision import Frame, Resolution
from mindvl_data.vision.resize import QWEN2_VL
from mindvl_train.data.batch import BatchLayout
from mindvl_train.kernels.registry import KernelConfig, resolve
from mindvl_train.models.initialise import give_weights
from mindvl_train.models.vlm import VLM, VLMConfig

SPECIAL_IDS = {
    "end_of_text": 0,
    "im_start": 1,
    "im_end": 2,
    "vision_start": 3,
    "vision_end": 4,
    "image_pad": 5,
}
# Of sets with videos: between the embedding's last token of text and its end.
VIDEO_PAD = 54
VOCAB_SIZE = 50
LAYOUT = BatchLayout(patch=14, merge=2, image_pad=SPECIAL_IDS["image_pad"])
TINY_MODEL: dict[str, Any] = {
    "vision": {"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2},
    "decoder": {
        "vocab_size": 56,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "qkv_bias": True,
        "qk_norm": True,
    },
}

# What makes the tiny tower one of Qwen3-VL.
QWEN3_VISION: dict[str, Any] = {
    "norm": "layer",
    "gated": False,
    "patch_bias": True,
    "num_position_embeddings": 9,
    "deepstack_visual_indexes": (0, 1),
}

# What makes the tiny decoder one of Qwen3.5: its first layer remembers, its second attends.
QWEN3_5: dict[str, Any] = {
    "delta": {
        "num_key_heads": 2,
        "num_value_heads": 4,
        "key_head_dim": 6,
        "value_head_dim": 8,
        "full_attention_layers": (1,),
    },
    "output_gate": True,
    "zero_centred_norm": True,
    "partial_rotary_factor": 0.75,
    "mrope_section": (1, 1, 1),
    "mrope_interleaved": True,
    "qkv_bias": False,
}
SHARED_EXPERT: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 12,
    "shared_expert_gate": True,
    "aux_loss_coef": 0.1,
}

MOE: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "dense_layers": [0],
    "scoring": "sigmoid",
    "balance_speed": 0.01,
}


@dataclass(frozen=True)
class Sample:
    """One segment-to-be: tokens, mask and images with their starts in it."""

    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    images: tuple[PackImage, ...]


def tiny_model(seed: int = 3, vision: dict[str, Any] | None = None, factor: float = 8, **decoder: Any) -> VLM:
    """A VLM with drawn weights, scaled up so that positions and images matter in its logits."""
    settings = {"vision": TINY_MODEL["vision"] | (vision or {}), "decoder": TINY_MODEL["decoder"] | decoder}
    with torch.device("meta"):
        model = VLM(VLMConfig(**settings), resolve(KernelConfig(), "cpu"))
    give_weights(model, seed, torch.device("cpu"))
    return scale_up(model, factor)


def scale_up(model: VLM, factor: float) -> VLM:
    """Its matrices made larger in place: attention sharpens, and what must not be seen would show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return model


def text_sample(rng: np.random.Generator, length: int) -> Sample:
    """Text of `length` tokens, loss on all but the first."""
    return _sample(rng.integers(6, VOCAB_SIZE, length), ())


def image_sample(rng: np.random.Generator, grid: tuple[int, int], text: int) -> Sample:
    """vision-start, one image of `grid` patches, vision-end, then `text` tokens that carry the loss."""
    height, width = grid
    pads = [SPECIAL_IDS["image_pad"]] * (height * width // 4)
    tokens = [
        SPECIAL_IDS["vision_start"],
        *pads,
        SPECIAL_IDS["vision_end"],
        *rng.integers(6, VOCAB_SIZE, text),
    ]
    data = _png(rng, height * 14, width * 14)
    image = PackImage(1, (1, height, width), data, None, None, len(data), hashlib.sha256(data).digest())
    return _sample(np.array(tokens), (image,))


def video_sample(rng: np.random.Generator, grid: tuple[int, int, int], text: int, seconds: float = 1.0) -> Sample:
    """vision-start, one video of `grid` patches that is a row of pictures, vision-end, then `text` tokens of loss."""
    tokens = [*_video_tokens(grid), *rng.integers(6, VOCAB_SIZE, text)]
    return _sample(np.array(tokens), (_clip(rng, grid, seconds),))


def spans_sample(rng: np.random.Generator, grid: tuple[int, int, int], text: int) -> Sample:
    """A video as Qwen3-VL has it: every two frames are an image of their own behind a few tokens of text."""
    clip, (pairs, height, width) = _clip(rng, grid, 0.0), grid
    tokens: list[int] = []
    images = []
    for pair in range(pairs):
        tokens += rng.integers(6, VOCAB_SIZE, 2).tolist()
        images.append(
            replace(clip, start=len(tokens) + 1, grid=(1, height, width), frames=clip.frames[2 * pair : 2 * pair + 2])
        )
        tokens += _video_tokens((1, height, width))
    return _sample(np.array([*tokens, *rng.integers(6, VOCAB_SIZE, text)]), tuple(images))


def _video_tokens(grid: tuple[int, int, int]) -> list[int]:
    pads = [VIDEO_PAD] * (grid[0] * grid[1] * grid[2] // 4)
    return [SPECIAL_IDS["vision_start"], *pads, SPECIAL_IDS["vision_end"]]


def _clip(rng: np.random.Generator, grid: tuple[int, int, int], seconds: float) -> PackImage:
    pairs, height, width = grid
    pictures = [_png(rng, height * 14, width * 14) for _ in range(2 * pairs)]
    begins = np.cumsum([0, *map(len, pictures)]).tolist()
    frames = tuple(
        Frame(number, number / 2, offset=begin, size=len(picture))
        for number, (begin, picture) in enumerate(zip(begins, pictures, strict=False))
    )
    data = b"".join(pictures)
    return PackImage(
        1, grid, data, size=len(data), sha256=hashlib.sha256(data).digest(), frames=frames, seconds_per_grid=seconds
    )


def _sample(tokens: NDArray[Any], images: tuple[PackImage, ...]) -> Sample:
    mask = (tokens > SPECIAL_IDS["image_pad"]) & (tokens < VOCAB_SIZE)
    mask[0] = False
    return Sample(tokens.astype(np.int32), mask, images)


def _png(rng: np.random.Generator, height: int, width: int) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((width, height)).save(buffer, "png")
    return buffer.getvalue()


def pack_of(samples: Sequence[Sample], seq_len: int = 0, index: int = 0) -> Pack:
    """The samples one after another, padded to `seq_len` (0: no padding)."""
    lengths = [len(sample.tokens) for sample in samples]
    bounds = np.cumsum([0, *lengths]).tolist()
    padding = max(0, seq_len - bounds[-1])
    images = tuple(
        replace(image, start=image.start + start)
        for sample, start in zip(samples, bounds, strict=False)
        for image in sample.images
    )
    cu_seqlens = np.array(bounds + ([seq_len] if padding else []), np.int32)
    return Pack(
        index=index,
        tokens=np.concatenate([*(s.tokens for s in samples), np.zeros(padding, np.int32)]),
        loss_mask=np.concatenate([*(s.loss_mask for s in samples), np.zeros(padding, bool)]),
        cu_seqlens=cu_seqlens,
        num_tokens=bounds[-1],
        sample_ids=tuple(hashlib.sha256(f"{index}.{i}".encode()).digest()[:16] for i in range(len(samples))),
        sources=("made-up",) * len(samples),
        repeats=(0,) * len(samples),
        images=images,
        num_patches=sum(image.num_patches for image in images),
        attention_cost=attention_cost(cu_seqlens, bounds[-1]),
        vision_cost=vision_cost(images),
    )


def mixed_packs(count: int, seq_len: int, seed: int = 0) -> list[Pack]:
    """Packs of one small image and some texts, every third without the image."""
    rng = np.random.default_rng(seed)
    packs = []
    for index in range(count):
        samples = [text_sample(rng, seq_len // 3)]
        if index % 3:
            samples.append(image_sample(rng, (4, 6), seq_len // 4))
        packs.append(pack_of(samples, seq_len, index))
    return packs


def write_data_set(folder: Path, packs: Sequence[Pack], rule: Resolution = QWEN2_VL, **tokenizer: Any) -> Path:
    """Writes packs as a manifest folder; `tokenizer` overrides what the manifest says of its tokenizer."""
    folder.mkdir(parents=True)
    seq_len = packs[0].seq_len
    shard = asdict(write_shard(folder / shard_name(0), packs, seq_len, ["made-up"]))
    del shard["pack_digests"]
    stated = {
        "name": "made-up",
        "sha256": "0" * 64,
        "vocab_size": VOCAB_SIZE,
        "special_ids": SPECIAL_IDS,
        "pad_id": 0,
    }
    tokens = sum(pack.num_tokens for pack in packs)
    packing = {
        "packs": len(packs),
        "minimum_packs": 1,
        "tokens": tokens,
        "padding": len(packs) * seq_len - tokens,
        "fill": tokens / (len(packs) * seq_len),
    }
    return write_manifest(
        folder,
        {
            **{key: {} for key in ("recipe", "chat_template", "sources")},
            "funnel": [],
            "mixture": {"total": {}},
            "recipe_hash": "0" * 64,
            "engine_version": "0",
            "format_version": FORMAT_VERSION,
            "id": content_id(pack_digest(pack) for pack in packs),
            "stage": folder.name,
            "seq_len": seq_len,
            "tokenizer": {**stated, **tokenizer},
            "resolution": rule.described(),
            "packing": packing,
            "order": {"rule": "as built", "step": 1, "seed": 0},
            "shards": [shard],
            "draws": {"path": "draws.parquet", "sha256": "0" * 64},
        },
    )


def write_run(folder: Path, rule: Resolution = QWEN2_VL, **changes: Any) -> Path:
    """Two data sets, a held-out set and the YAML of a two-stage run over them; returns the YAML's path."""
    write_data_set(folder / "data" / "first", mixed_packs(7, 24, seed=1), rule)
    write_data_set(folder / "data" / "second", mixed_packs(6, 32, seed=2), rule)
    write_data_set(folder / "data" / "holdout", mixed_packs(3, 24, seed=3), rule)
    run: dict[str, Any] = {
        "name": "made-up",
        "seed": 11,
        "data": str(folder / "data"),
        "out": str(folder / "run"),
        "model": {"name": "vlm", "config": TINY_MODEL},
        "holdout": "holdout/manifest.json",
        "checkpoint": {"every_steps": 2, "keep": 2},
        "stages": {
            "warmup": {
                "manifest": "first/manifest.json",
                "train": ["projector.*"],
                "lr": {"*": 1e-2},
                "until": {"epochs": 2},
                "global_batch": 2,
            },
            "everything": {
                "manifest": "second/manifest.json",
                "lr": {"vision.*": 1e-3, "*": 3e-3},
                "schedule": {"name": "wsd", "warmup": 0.2},
                "until": {"epochs": 2},
                "global_batch": 3,
                "micro_batch": 3,
            },
        },
    }
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(run | changes, sort_keys=False))
    return path
