"""Packs and manifests made by hand, for the tests of what reads them."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mindvl_data.manifest import FORMAT_VERSION, write_manifest
from mindvl_data.shards import (
    Pack,
    PackImage,
    attention_cost,
    content_id,
    file_sha256,
    shard_name,
    vision_cost,
    write_shard,
)

SPECIAL_IDS = {
    "end_of_text": 0,
    "im_start": 1,
    "im_end": 2,
    "vision_start": 3,
    "vision_end": 4,
    "image_pad": 5,
}
VOCAB_SIZE = 64


def png(seed: int, size: tuple[int, int] = (56, 56)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_pack(index: int, seq_len: int = 64, lengths: Sequence[int] = (20, 30), images: bool = True) -> Pack:
    """A sound pack: segments of random text, the first with one image of 4 × 4 patches, padding at the end."""
    rng = np.random.default_rng(index)
    num_tokens = sum(lengths)
    tokens = np.zeros(seq_len, np.int32)
    tokens[:num_tokens] = rng.integers(6, VOCAB_SIZE, num_tokens)
    borders = np.concatenate([[0], np.cumsum(lengths)])
    mask = np.zeros(seq_len, bool)
    mask[:num_tokens] = rng.random(num_tokens) < 0.7
    mask[num_tokens - 1] = True
    placed: tuple[PackImage, ...] = ()
    if images:
        data = png(index)
        tokens[1:7] = [3, 5, 5, 5, 5, 4]
        mask[1:7] = False
        placed = (PackImage(2, (1, 4, 4), data, sha256=hashlib.sha256(data).digest()),)
    mask[borders[:-1]] = False
    cu_seqlens = np.append(borders, seq_len) if num_tokens < seq_len else borders
    cu_seqlens = cu_seqlens.astype(np.int32)
    return Pack(
        index=index,
        tokens=tokens,
        loss_mask=mask,
        cu_seqlens=cu_seqlens,
        num_tokens=num_tokens,
        sample_ids=tuple(hashlib.sha256(f"{index}/{i}".encode()).digest()[:16] for i in range(len(lengths))),
        sources=tuple("ab"[i % 2] for i in range(len(lengths))),
        repeats=tuple(range(len(lengths))),
        images=placed,
        num_patches=sum(image.num_patches for image in placed),
        attention_cost=attention_cost(cu_seqlens, num_tokens),
        vision_cost=vision_cost(placed),
    )


def make_manifest(
    folder: Path,
    packs: Sequence[Pack],
    per_shard: int = 4,
    step: int = 2,
    stage: str = "stage",
    sources: Sequence[str] = ("a", "b"),
) -> Path:
    """Packs as a data set on disk; returns the path of its manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    seq_len = packs[0].seq_len
    shards = [
        write_shard(folder / shard_name(number), packs[first : first + per_shard], seq_len, list(sources))
        for number, first in enumerate(range(0, len(packs), per_shard))
    ]
    draws = sorted(
        (uid, pack.repeats[i], number // per_shard, number, int(pack.cu_seqlens[i]), int(pack.cu_seqlens[i + 1]))
        for number, pack in enumerate(packs)
        for i, uid in enumerate(pack.sample_ids)
    )
    names = ["sample_id", "repeat", "shard", "pack", "start", "stop"]
    pq.write_table(pa.table(dict(zip(names, zip(*draws, strict=True), strict=True))), folder / "draws.parquet")
    totals = {
        "samples": len(draws),
        "tokens": sum(pack.num_tokens for pack in packs),
        "loss_tokens": sum(int(pack.loss_mask.sum()) for pack in packs),
        "vision_tokens": sum(pack.num_patches for pack in packs) // 4,
    }
    listed = [{"path": s.path, "packs": s.packs, "bytes": s.bytes, "sha256": s.sha256} for s in shards]
    return write_manifest(
        folder,
        {
            "format_version": FORMAT_VERSION,
            "id": content_id(digest for shard in shards for digest in shard.pack_digests),
            "recipe_hash": "",
            "recipe": {},
            "engine_version": "test",
            "stage": stage,
            "seq_len": seq_len,
            "tokenizer": {
                "name": "test",
                "sha256": "test",
                "vocab_size": VOCAB_SIZE,
                "special_ids": SPECIAL_IDS,
                "pad_id": 0,
            },
            "chat_template": {},
            "resolution": {"patch": 14, "merge": 2, "min_pixels": 3136, "max_pixels": 1003520},
            "sources": {},
            "funnel": [],
            "mixture": {"total": totals},
            "packing": {
                "packs": len(packs),
                "minimum_packs": 1,
                "tokens": totals["tokens"],
                "padding": len(packs) * seq_len - totals["tokens"],
                "fill": round(totals["tokens"] / (len(packs) * seq_len), 6),
            },
            "order": {"rule": "shuffled", "step": step, "seed": 0},
            "draws": {"path": "draws.parquet", "draws": 0, "sha256": file_sha256(folder / "draws.parquet")},
            "shards": listed,
        },
    )
