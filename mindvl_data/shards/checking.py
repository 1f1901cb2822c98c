"""Checking a pack against every rule of the contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from mindvl_data.shards.pack import Pack, PackImage, attention_cost, vision_cost
from mindvl_data.vision.video.rule import TEMPORAL_PATCH


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
        "loss on an image placeholder": not pack.loss_mask[_is_placeholder(pack, special_ids)].any(),
        "no token to learn from": pack.loss_mask.any(),
        "loss weights are not numbers above 0, and 1 where nothing is learnt": _weights_sound(pack),
        "num_patches is not the sum of its grids": pack.num_patches == sum(i.num_patches for i in pack.images),
        "attention_cost is wrong": pack.attention_cost == attention_cost(cu, n),
        "vision_cost is wrong": pack.vision_cost == vision_cost(pack.images),
    }
    return [problem for problem, holds in checks.items() if not holds] + _image_problems(pack, special_ids, merge)


def _weights_sound(pack: Pack) -> bool:
    weights = pack.loss_weights
    if weights is None:
        return True
    return bool(np.isfinite(weights).all() and (weights > 0).all() and (weights[~pack.loss_mask] == 1).all())


def _image_problems(pack: Pack, special_ids: Mapping[str, int], merge: int) -> list[str]:
    problems = []
    covered = np.zeros(pack.seq_len, bool)
    before, digest = None, None
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
        if image.data is not before:
            digest = None if image.data is None else hashlib.sha256(image.data).digest()
        before = image.data
        if image.data is not None and image.sha256 != digest:
            problems.append(f"the bytes of image {number} do not have their sha256")
        problems += [f"image {number}: {problem}" for problem in _frame_problems(image)]
    if not np.array_equal(covered, _is_placeholder(pack, special_ids)):
        problems.append("the image placeholders are not exactly the runs of its images")
    return problems


def _is_placeholder(pack: Pack, special_ids: Mapping[str, int]) -> NDArray[np.bool_]:
    """bool [seq_len]: the placeholders of pictures and, in a set with clips, of clips."""
    pads = [special_ids[name] for name in ("image_pad", "video_pad") if name in special_ids]
    return np.isin(pack.tokens, pads)


def _frame_problems(image: PackImage) -> Iterator[str]:
    if image.frames and len(image.frames) != TEMPORAL_PATCH * image.grid[0]:
        yield f"{len(image.frames)} frames for a grid of {image.grid[0]} pairs"
    if not image.frames and image.grid[0] != 1:
        yield "a picture whose grid has a length in time"
    rising = [(frame.index, frame.time) for frame in image.frames]
    if rising != sorted(rising) or any(frame.index < 0 for frame in image.frames):
        yield "its frames are not in the order of the clip"
