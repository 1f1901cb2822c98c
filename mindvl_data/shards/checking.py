"""Checking a pack against every rule of the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from mindvl_data.shards.pack import Pack, attention_cost, vision_cost


def pack_problems(pack: Pack, special_ids: Mapping[str, int], vocab_size: int, merge: int) -> list[str]:
    """Every rule of the contract that this pack breaks, in words; empty when it is sound."""
    cu, n = pack.cu_seqlens, pack.num_tokens
    if len(cu) < 2 or cu[0] != 0 or cu[-1] != pack.seq_len or (np.diff(cu) <= 0).any():
        return ["cu_seqlens does not rise from 0 to seq_len"]
    if not 0 < n <= pack.seq_len:
        return [f"num_tokens {n} is not within the pack"]
    segments = int(np.searchsorted(cu, n))
    if cu[segments] != n or len(cu) - 1 - segments > 1:
        return [f"num_tokens {n} is no segment border followed by at most one padding segment"]
    checks = {
        "sample_id, source and repeat are not one a real segment": len(
            {segments, len(pack.sample_ids), len(pack.sources), len(pack.repeats)}
        )
        == 1,
        "a token is outside the vocabulary": pack.tokens.min() >= 0 and pack.tokens.max() < vocab_size,
        "padding is not the end-of-text token": (pack.tokens[n:] == special_ids["end_of_text"]).all(),
        "loss on padding": not pack.loss_mask[n:].any(),
        "loss on a segment's first token": not pack.loss_mask[cu[:-1]].any(),
        "loss on an image placeholder": not pack.loss_mask[pack.tokens == special_ids["image_pad"]].any(),
        "no token to learn from": pack.loss_mask.any(),
        "num_patches is not the sum of its grids": pack.num_patches == sum(i.num_patches for i in pack.images),
        "attention_cost is wrong": pack.attention_cost == attention_cost(cu, n),
        "vision_cost is wrong": pack.vision_cost == vision_cost(pack.images),
    }
    return [problem for problem, holds in checks.items() if not holds] + _image_problems(pack, special_ids, merge)


def _image_problems(pack: Pack, special_ids: Mapping[str, int], merge: int) -> list[str]:
    problems = []
    covered = np.zeros(pack.seq_len, bool)
    for number, image in enumerate(pack.images):
        stop = image.start + image.num_patches // merge**2
        covered[image.start : stop] = True
        framed = 0 < image.start < stop < pack.seq_len and (
            pack.tokens[image.start - 1] == special_ids["vision_start"]
            and pack.tokens[stop] == special_ids["vision_end"]
        )
        if not framed:
            problems.append(f"image {number} is not framed by vision-start and vision-end")
        if min(image.grid) < 1 or image.grid[1] % merge or image.grid[2] % merge:
            problems.append(f"the grid of image {number} is no whole number of merged patches")
        if image.data is None and image.uri is None:
            problems.append(f"image {number} has neither bytes nor a place to read them")
        if image.data is not None and image.sha256 != hashlib.sha256(image.data).digest():
            problems.append(f"the bytes of image {number} do not have their sha256")
    if not np.array_equal(covered, pack.tokens == special_ids["image_pad"]):
        problems.append("the image placeholders are not exactly the runs of its images")
    return problems
