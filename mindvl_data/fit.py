"""Fitting: what each sample weighs at a stage's pixel bounds, and what becomes of those that are too long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mindvl_data.corpus import Corpus
from mindvl_data.vision import Resolution, patch_grids

# Reads one sample of the corpus by its number: its ids and its loss mask.
Tokens = Callable[[int], tuple[NDArray[np.int32], NDArray[np.bool_]]]


@dataclass(frozen=True)
class Weights:
    """Columns over the n samples of a corpus, all int64, for one resolution (and, once fitted, one length).

    num_ids, num_images: how much of the sample is used, from its start. tokens = num_ids with each image's
    one placeholder expanded. vision_tokens; patches, before the merge.
    """

    num_ids: NDArray[np.int64]
    num_images: NDArray[np.int64]
    tokens: NDArray[np.int64]
    loss_tokens: NDArray[np.int64]
    vision_tokens: NDArray[np.int64]
    image_bytes: NDArray[np.int64]
    patches: NDArray[np.int64]

    def of(self, samples: NDArray[np.integer]) -> Weights:
        """The lines of these samples, in their order."""
        return Weights(*(getattr(self, name)[samples] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Fitted:
    """`fits`: bool [n], which samples a stage can draw; `cut` and `lost`: those truncated, and those dropped."""

    weights: Weights
    fits: NDArray[np.bool_]
    cut: NDArray[np.int64]
    lost: dict[int, tuple[str, str]]


def weigh(corpus: Corpus, resolution: Resolution) -> Weights:
    """Exact tokens and patches of every sample: text as counted, images by the resize rule."""
    vision, patches = image_weights(corpus, resolution)
    vision_tokens = corpus.per_sample(vision)
    num_images = np.diff(corpus.image_starts)
    return Weights(
        num_ids=corpus.num_ids.astype(np.int64),
        num_images=num_images,
        tokens=corpus.num_ids - num_images + vision_tokens,
        loss_tokens=corpus.loss_tokens.astype(np.int64),
        vision_tokens=vision_tokens,
        image_bytes=corpus.per_sample(corpus.size),
        patches=corpus.per_sample(patches),
    )


def image_weights(corpus: Corpus, resolution: Resolution) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vision tokens and patches of every image, int64 [images]."""
    grids = patch_grids(corpus.width, corpus.height, resolution).astype(np.int64)
    patches = grids[:, 0] * grids[:, 1]
    return patches // resolution.merge**2, patches


def fit(
    corpus: Corpus,
    weights: Weights,
    among: NDArray[np.bool_],
    seq_len: int,
    overlong: str,
    resolution: Resolution,
    tokens: Tokens,
    image_pad: int,
) -> Fitted:
    """Settle the samples of `among` that are longer than `seq_len`: dropped, or cut so that they fit.

    A cut falls at a text token or before an image, never inside a placeholder run; what is left without a
    loss token is dropped.
    """
    fits = among & (weights.tokens <= seq_len)
    too_long = np.flatnonzero(among & (weights.tokens > seq_len))
    lost = {int(i): ("overlong", f"{weights.tokens[i]} tokens, the pack holds {seq_len}") for i in too_long}
    if overlong != "truncate" or not len(too_long):
        return Fitted(weights, fits, too_long[:0], lost)
    weights = replace(weights, **{name: getattr(weights, name).copy() for name in weights.__dataclass_fields__})
    vision, patches = image_weights(corpus, resolution)
    cut = []
    for i in map(int, too_long):
        if _cut(corpus, weights, i, seq_len, vision, patches, tokens, image_pad):
            cut.append(i)
            fits[i] = True
            del lost[i]
        else:
            lost[i] = ("no_loss_token", f"nothing to learn from in its first {seq_len} tokens")
    return Fitted(weights, fits, np.array(cut, np.int64), lost)


def _cut(
    corpus: Corpus,
    weights: Weights,
    sample: int,
    seq_len: int,
    vision: NDArray[np.int64],
    patches: NDArray[np.int64],
    tokens: Tokens,
    image_pad: int,
) -> bool:
    """Shorten one sample in `weights`; whether a loss token is left."""
    ids, loss = tokens(sample)
    first = int(corpus.image_starts[sample])
    span = slice(first, int(corpus.image_starts[sample + 1]))
    kept, images = truncated(ids, vision[span], seq_len, image_pad)
    used = slice(first, first + images)
    weights.num_ids[sample], weights.num_images[sample] = kept, images
    weights.vision_tokens[sample] = vision[used].sum()
    weights.tokens[sample] = kept - images + vision[used].sum()
    weights.patches[sample] = patches[used].sum()
    weights.image_bytes[sample] = corpus.size[used].sum()
    weights.loss_tokens[sample] = loss[:kept].sum()
    return bool(weights.loss_tokens[sample])


def truncated(ids: NDArray[np.int32], vision: NDArray[np.int64], seq_len: int, image_pad: int) -> tuple[int, int]:
    """How many ids and images of a sample fit `seq_len`; an image counts with its vision-start and -end."""
    places = np.flatnonzero(ids == image_pad)
    expanded = np.ones(len(ids), np.int64)
    expanded[places] = vision
    ends = np.cumsum(expanded)
    # Cutting after id k leaves ends[k] tokens; within an image block (start, pad, end) only its end will do.
    whole = np.ones(len(ids), bool)
    whole[places] = whole[places - 1] = False
    possible = np.flatnonzero(whole & (ends <= seq_len))
    kept = int(possible[-1]) + 1 if len(possible) else 0
    return kept, int((places < kept).sum())
