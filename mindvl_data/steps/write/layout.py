"""Where the tokens of segments lie in packs of one length: placeholders expanded, rows filled from the left."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.steps.write.segments import Texts, spans
from mindvl_data.tables.store import starts_of


@dataclass(frozen=True)
class Rows:
    """p packs of s segments and n images.

    Attributes:
        tokens: int32 [p, seq_len]; loss_mask: bool, loss_weights: float32 or None, likewise.
        lengths: int64 [s], tokens of each segment; sample_ids: uint8 [s, 16].
        image_starts: int64 [n], the first placeholder of each image in its pack.
    """

    tokens: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    loss_weights: NDArray[np.float32] | None
    lengths: NDArray[np.int64]
    sample_ids: NDArray[np.uint8]
    image_starts: NDArray[np.int64]

    def cut(self, packs: slice, segments: slice, images: slice) -> Rows:
        return Rows(
            self.tokens[packs],
            self.loss_mask[packs],
            None if self.loss_weights is None else self.loss_weights[packs],
            self.lengths[segments],
            self.sample_ids[segments],
            self.image_starts[images],
        )


def laid_out(
    texts: Texts,
    num_ids: NDArray[np.int64],
    num_segments: NDArray[np.int64],
    is_image: NDArray[np.bool_],
    num_tokens: NDArray[np.int64],
    seq_len: int,
    pad: int,
) -> Rows:
    """Segments in their packs.

    Args:
        texts: of the segments; num_ids: int64 [s], the ids of each; num_segments: int64 [p], those of each pack.
        is_image: bool [ids], where a placeholder stands; num_tokens: int64 [n], the tokens that each becomes.
        seq_len: of a pack; pad: the id that fills it.
    """
    expanded = np.ones(len(is_image), np.int64)
    expanded[is_image] = num_tokens
    starts = starts_of(expanded)
    borders = starts[starts_of(num_ids)]
    begins = borders[starts_of(num_segments)]
    spans_of_packs = list(pairwise(begins.tolist()))

    def rows(values: NDArray[Any], padding: int | bool) -> NDArray[Any]:
        given, filled = np.repeat(values, expanded), np.empty((len(num_segments), seq_len), values.dtype)
        for row, (begin, end) in zip(filled, spans_of_packs, strict=True):
            row[: end - begin] = given[begin:end]
            row[end - begin :] = padding
        return filled

    places = starts[:-1][is_image]
    return Rows(
        tokens=rows(texts.ids, pad),
        loss_mask=rows(texts.loss, False),
        loss_weights=None if texts.weights is None else rows(texts.weights, 1),
        lengths=np.diff(borders),
        sample_ids=texts.sample_ids,
        image_starts=places - begins[np.searchsorted(begins, places, side="right") - 1],
    )


def cu_seqlens(
    lengths: NDArray[np.int64], num_segments: NDArray[np.int64], seq_len: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The `cu_seqlens` of every pack, one pack after the other, and how many each has: padding is one more."""
    offsets, borders = starts_of(num_segments), starts_of(lengths)
    begins, real = borders[offsets], num_segments + 1
    counts = real + (np.diff(begins) < seq_len)
    found = np.full(int(counts.sum()), seq_len, np.int32)
    found[spans(starts_of(counts)[:-1], real)] = borders[spans(offsets[:-1], real)] - np.repeat(begins[:-1], real)
    return found, counts


def sums(values: NDArray[np.int64], borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of the values between each two borders."""
    return np.diff(starts_of(values)[borders])
