"""Everything that can be drawn, as columns: where each sample lies and what it weighs, for every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.store import Store, starts_of


@dataclass(frozen=True)
class Corpus:
    """n samples of all sources, in the order of their partitions.

    source: int16 [n] into `sources`. partition, row: int32 [n], the store and the line in it. sample_ids:
    uint8 [n, 16]. num_ids: int32 [n], tokens with one an image. loss_tokens: int32 [n]. image_starts: int64
    [n + 1] into width, height (int32, pixels) and size (int64, bytes). content, content_starts: see holdout.
    """

    sources: tuple[str, ...]
    source: NDArray[np.int16]
    partition: NDArray[np.int32]
    row: NDArray[np.int32]
    sample_ids: NDArray[np.uint8]
    num_ids: NDArray[np.int32]
    loss_tokens: NDArray[np.int32]
    image_starts: NDArray[np.int64]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.int64]
    content: NDArray[np.uint64]
    content_starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def per_sample(self, of_images: NDArray[np.int64]) -> NDArray[np.int64]:
        """Σ over each sample's images of a value an image, int64 [n]."""
        total = np.concatenate([[0], np.cumsum(of_images, dtype=np.int64)])
        return np.diff(total[self.image_starts])


def from_stores(sources: tuple[str, ...], stores: Sequence[tuple[str, Store]]) -> Corpus:
    """The columns of (source, store) pairs, read once."""
    counts = [len(store) for _, store in stores]
    content = [_content(store) for _, store in stores]
    return Corpus(
        sources=sources,
        source=np.repeat([sources.index(name) for name, _ in stores], counts).astype(np.int16),
        partition=np.repeat(np.arange(len(stores)), counts).astype(np.int32),
        row=_joined([np.arange(count) for count in counts], np.int32),
        sample_ids=np.concatenate([np.zeros((0, 16), np.uint8), *(store.sample_ids for _, store in stores)]),
        num_ids=_joined([np.diff(store.starts) for _, store in stores], np.int32),
        loss_tokens=_joined([store.loss_tokens for _, store in stores], np.int32),
        image_starts=starts_of(_joined([np.diff(store.image_starts) for _, store in stores], np.int64)),
        width=_joined([store.images["width"] for _, store in stores], np.int32),
        height=_joined([store.images["height"] for _, store in stores], np.int32),
        size=_joined([store.images["size"] for _, store in stores], np.int64),
        content=_joined([values for values, _ in content], np.uint64),
        content_starts=starts_of(_joined([lengths for _, lengths in content], np.int64)),
    )


def _joined(columns: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *columns]).astype(kind, copy=False)


def _content(store: Store) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A hash of each image, or of the text of a sample without any; and how many each sample has."""
    images = np.diff(store.image_starts)
    lengths = np.maximum(images, 1)
    content = np.zeros(int(lengths.sum()), np.uint64)
    of_image = np.repeat(images > 0, lengths)
    content[of_image] = _first_word(store.images["sha256"])
    content[~of_image] = _first_word(store.text_hash[images == 0])
    return content, lengths


def _first_word(hashes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(hashes[:, :8]).view("<u8").ravel()
