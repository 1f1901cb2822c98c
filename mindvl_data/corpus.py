"""Everything that can be drawn, as columns: where each sample lies and what it weighs, for every stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.store import Store, starts_of


@dataclass(frozen=True)
class Corpus:
    """n samples of all sources, in the order of their partitions.

    source: int16 [n] into `sources`. partition, row: int32 [n], the store and the line in it. sample_ids:
    uint8 [n, 16]. num_ids: int32 [n], tokens with one an image. loss_tokens: int32 [n]. image_starts: [n + 1]
    into width, height (int32, pixels) and size (bytes), each int32 where that holds its values, else int64.
    content, content_starts: see holdout; empty once that is done.
    """

    sources: tuple[str, ...]
    source: NDArray[np.int16]
    partition: NDArray[np.int32]
    row: NDArray[np.int32]
    sample_ids: NDArray[np.uint8]
    num_ids: NDArray[np.int32]
    loss_tokens: NDArray[np.int32]
    image_starts: NDArray[np.integer]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.integer]
    content: NDArray[np.uint64]
    content_starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.row)

    def without_content(self) -> Corpus:
        """The same for whoever holds nothing out any more."""
        return replace(self, content=np.zeros(0, np.uint64), content_starts=np.zeros(1, np.int64))


def from_stores(sources: tuple[str, ...], names: Sequence[str], stores: Iterable[Store]) -> Corpus:
    """The columns of each store (of the source named beside it), read one store after another.

    Holds no store open, however many there are.
    """
    columns = [_columns(store) for store in stores]
    counts = [len(column["num_ids"]) for column in columns]

    def joined(name: str, empty: NDArray[Any]) -> NDArray[Any]:
        # What is joined is let go: the whole is never there twice.
        return np.concatenate([empty, *(column.pop(name) for column in columns)])

    return Corpus(
        sources=sources,
        source=np.repeat([sources.index(name) for name in names], counts).astype(np.int16),
        partition=np.repeat(np.arange(len(counts)), counts).astype(np.int32),
        row=np.concatenate([np.zeros(0, np.int32), *(np.arange(count, dtype=np.int32) for count in counts)]),
        sample_ids=joined("sample_ids", np.zeros((0, 16), np.uint8)),
        num_ids=joined("num_ids", np.zeros(0, np.int32)),
        loss_tokens=joined("loss_tokens", np.zeros(0, np.int32)),
        image_starts=narrow(starts_of(joined("num_images", np.zeros(0, np.int16)))),
        width=joined("width", np.zeros(0, np.int32)),
        height=joined("height", np.zeros(0, np.int32)),
        size=narrow(joined("size", np.zeros(0, np.int64))),
        content=joined("content", np.zeros(0, np.uint64)),
        content_starts=starts_of(joined("num_content", np.zeros(0, np.int16))),
    )


def narrow(values: NDArray[np.int64]) -> NDArray[np.integer]:
    """The same as int32 where that holds every value: half the memory, of columns with a line a sample."""
    return values.astype(np.int32) if not len(values) or values.max() < 2**31 else values


def recounted(corpus: Corpus, stores: Mapping[int, Store]) -> Corpus:
    """The corpus with the tokens of these partitions as other stores of the same samples have them."""
    num_ids, loss_tokens = corpus.num_ids.copy(), corpus.loss_tokens.copy()
    for number, store in stores.items():
        first, end = np.searchsorted(corpus.partition, [number, number + 1])
        num_ids[first:end], loss_tokens[first:end] = np.diff(store.starts), store.loss_tokens
    return replace(corpus, num_ids=num_ids, loss_tokens=loss_tokens)


def _columns(store: Store) -> dict[str, NDArray[Any]]:
    """Copies, so that the store's files close with it."""
    content, num_content = _content(store)
    return {
        "sample_ids": np.array(store.sample_ids),
        "num_ids": np.diff(store.starts).astype(np.int32),
        "loss_tokens": np.array(store.loss_tokens),
        "num_images": np.diff(store.image_starts).astype(np.int16),
        "width": np.array(store.images["width"]),
        "height": np.array(store.images["height"]),
        "size": np.array(store.images["size"]),
        "content": content,
        "num_content": num_content.astype(np.int16),
    }


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
