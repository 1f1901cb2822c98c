"""Fitting: what each sample weighs at a stage's pixel bounds, and what becomes of those that are too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.tables.columns import chunks, let_go
from mindvl_data.tables.corpus import Corpus
from mindvl_data.tables.store import image_grids, starts_of
from mindvl_data.vision import Resolution

# Reads one sample of the corpus by its number: its ids and its loss mask.
Tokens = Callable[[int], tuple[NDArray[np.int32], NDArray[np.bool_]]]


@dataclass(frozen=True)
class Weights:
    """Columns over the n samples of a corpus, for one resolution (and, once fitted, one length).

    num_ids, num_images: how much of the sample is used, from its start. tokens = num_ids with each image's
    one placeholder expanded. patches: of all its images, before `merge` x `merge` of them make a vision token.
    """

    num_ids: NDArray[np.int32]
    num_images: NDArray[np.int16]
    tokens: NDArray[np.int32]
    loss_tokens: NDArray[np.int32]
    patches: NDArray[np.int32]
    merge: int

    def of(self, samples: NDArray[np.integer], column: str) -> NDArray[np.int32]:
        """`tokens`, `loss_tokens` or `vision_tokens` of these samples, int32 [samples]."""
        if column == "vision_tokens":
            found: NDArray[np.int32] = self.patches[samples] // np.int32(self.merge**2)
        else:
            found = getattr(self, column)[samples]
        return found

    def copied(self) -> Weights:
        """The same in arrays of its own."""
        columns: dict[str, Any] = {k: v.copy() for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **columns)


@dataclass(frozen=True)
class Fitted:
    """What a stage can draw, and what became of samples that are too long, by their numbers, ascending.

    fits: bool [n]. cut: int64, those truncated. overlong: int64, those dropped. emptied: int64, those dropped
    because a cut would leave nothing to learn from. `weights` are those of what is left of a cut sample.
    """

    weights: Weights
    fits: NDArray[np.bool_]
    cut: NDArray[np.int64]
    overlong: NDArray[np.int64]
    emptied: NDArray[np.int64]


def weigh(corpus: Corpus, resolution: Resolution) -> Weights:
    """Exact tokens and patches of every sample: text as counted, images by the resize rule."""
    n = len(corpus)
    tokens, patches, num_images = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int16)
    for start, end in chunks(n):
        of_images = image_weights(corpus, resolution, start, end)
        starts = corpus.image_starts[start : end + 1]
        vision_tokens, patches[start:end] = (_per_sample(values, starts) for values in of_images)
        num_images[start:end] = np.diff(starts)
        tokens[start:end] = corpus.num_ids[start:end] + vision_tokens - num_images[start:end]
        let_go(corpus.num_ids, corpus.image_starts, corpus.width, corpus.height)
    return Weights(
        num_ids=corpus.num_ids,
        num_images=num_images,
        tokens=tokens,
        loss_tokens=corpus.loss_tokens,
        patches=patches,
        merge=resolution.merge,
    )


def image_weights(
    corpus: Corpus, resolution: Resolution, start: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vision tokens and patches of every image of the samples from `start` to `end`."""
    span = slice(int(corpus.image_starts[start]), int(corpus.image_starts[end]))
    grids = image_grids(corpus.width[span], corpus.height[span], resolution)
    patches = grids[:, 0] * grids[:, 1]
    return patches // resolution.merge**2, patches


def image_bytes(corpus: Corpus, weights: Weights) -> NDArray[np.int64]:
    """Bytes of the images of every sample that are used, int64 [n]."""
    sizes = np.empty(len(corpus), np.int64)
    for start, end in chunks(len(corpus)):
        starts = corpus.image_starts[start : end + 1]
        total = starts_of(corpus.size[starts[0] : starts[-1]])
        first = starts[:-1] - starts[0]
        sizes[start:end] = total[first + weights.num_images[start:end]] - total[first]
        let_go(corpus.image_starts, corpus.size)
    return sizes


def _per_sample(of_images: NDArray[np.integer], starts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Σ over each sample's images of a value an image, int64 [n]; starts: [n + 1]."""
    sums: NDArray[np.int64] = np.diff(starts_of(of_images)[starts - starts[0]])
    return sums


def fit(
    corpus: Corpus,
    weights: Weights,
    among: NDArray[np.bool_],
    seq_len: int,
    overlong: str,
    resolution: Resolution,
    tokens: Tokens,
    pads: Sequence[int],
) -> Fitted:
    """Settle the samples of `among` that are longer than `seq_len`: dropped, or cut so that they fit.

    A cut falls at a text token or before an image, never inside a placeholder run; what is left without a
    loss token is dropped.
    """
    fits = among & (weights.tokens <= seq_len)
    too_long = np.flatnonzero(among & (weights.tokens > seq_len))
    none = too_long[:0]
    if overlong != "truncate" or not len(too_long):
        return Fitted(weights, fits, none, too_long, none)
    weights = weights.copied()
    learns = [_cut(corpus, weights, i, seq_len, resolution, tokens, pads) for i in too_long.tolist()]
    fits[too_long] = learns
    return Fitted(weights, fits, too_long[learns], none, too_long[~fits[too_long]])


def _cut(
    corpus: Corpus,
    weights: Weights,
    sample: int,
    seq_len: int,
    resolution: Resolution,
    tokens: Tokens,
    pads: Sequence[int],
) -> bool:
    """Shorten one sample in `weights`; whether a loss token is left."""
    ids, loss = tokens(sample)
    vision, patches = image_weights(corpus, resolution, sample, sample + 1)
    kept, images = truncated(ids, vision, seq_len, pads)
    weights.num_ids[sample], weights.num_images[sample] = kept, images
    weights.tokens[sample] = kept - images + vision[:images].sum()
    weights.patches[sample] = patches[:images].sum()
    weights.loss_tokens[sample] = loss[:kept].sum()
    return bool(weights.loss_tokens[sample])


def truncated(ids: NDArray[np.int32], vision: NDArray[np.int64], seq_len: int, pads: Sequence[int]) -> tuple[int, int]:
    """How many ids and images of a sample fit `seq_len`; an image counts with its vision-start and -end."""
    places = np.flatnonzero(np.isin(ids, pads))
    expanded = np.ones(len(ids), np.int64)
    expanded[places] = vision
    ends = np.cumsum(expanded)
    # Cutting after id k leaves ends[k] tokens; within an image block (start, pad, end) only its end will do.
    whole = np.ones(len(ids), bool)
    whole[places] = whole[places - 1] = False
    possible = np.flatnonzero(whole & (ends <= seq_len))
    kept = int(possible[-1]) + 1 if len(possible) else 0
    return kept, int((places < kept).sum())
