"""Everything that can be drawn, as columns: where each sample lies and what it weighs, for every stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.tables.store import Store, own_sizes, starts_of


@dataclass(frozen=True)
class Corpus:
    """n samples of all sources, in the order of their partitions.

    source: int16 [n] into `sources`. starts: int64 [partitions + 1], where each store's lines begin. sample_ids:
    uint8 [n, 16]. num_ids: int32 [n], tokens with one an image. loss_tokens: int32 [n]. image_starts: [n + 1]
    into width, height (int32, pixels; of a clip as the store has them) and size (bytes), each int32 where that holds
    its values, else int64.
    content, content_starts: see holdout; empty once that is done, or where nothing is held out.
    """

    sources: tuple[str, ...]
    source: NDArray[np.int16]
    starts: NDArray[np.int64]
    sample_ids: NDArray[np.uint8]
    num_ids: NDArray[np.int32]
    loss_tokens: NDArray[np.int32]
    image_starts: NDArray[np.integer]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    size: NDArray[np.integer]
    content: NDArray[np.uint64]
    content_starts: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.source)

    def places(self, samples: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The store of each of these samples, and its line in it; both int32 [samples]."""
        partition = np.searchsorted(self.starts, samples, side="right") - 1
        return partition.astype(np.int32), (samples - self.starts[partition]).astype(np.int32)

    def place(self, sample: int) -> tuple[int, int]:
        partition, row = self.places(np.array([sample]))
        return int(partition[0]), int(row[0])

    def without_content(self) -> Corpus:
        """The same for whoever holds nothing out any more."""
        return replace(self, content=np.zeros(0, np.uint64), content_starts=np.zeros(1, np.int64))


class _Column:
    """A column that grows by parts. The whole is there once: what it grows into is not touched before it is filled."""

    def __init__(self, empty: NDArray[Any]) -> None:
        self._rows, self._filled = empty, 0

    def append(self, part: NDArray[Any]) -> None:
        end = self._filled + len(part)
        if end > len(self._rows):
            wider = np.empty((max(end, 2 * len(self._rows)), *self._rows.shape[1:]), self._rows.dtype)
            wider[: self._filled] = self.values()
            self._rows = wider
        self._rows[self._filled : end] = part
        self._filled = end

    def values(self) -> NDArray[Any]:
        return self._rows[: self._filled]


def from_stores(
    sources: tuple[str, ...], names: Sequence[str], stores: Iterable[Store], content: bool = True
) -> Corpus:
    """The columns of each store (of the source named beside it), read one store after another.

    content: whether a set will be held out by it. Holds no store open, however many there are.
    """
    dtypes = {"num_ids": np.int32, "loss_tokens": np.int32, "num_images": np.int16, "width": np.int32}
    dtypes |= {"height": np.int32, "size": np.int64, "content": np.uint64, "num_content": np.int16}
    columns = {name: _Column(np.zeros(0, dtype)) for name, dtype in dtypes.items()}
    columns["sample_ids"] = _Column(np.zeros((0, 16), np.uint8))
    counts = []
    for store in stores:
        counts.append(len(store))
        for name, part in _columns(store, content).items():
            columns[name].append(part)

    def whole(name: str) -> NDArray[Any]:
        return columns.pop(name).values()

    return Corpus(
        sources=sources,
        source=np.repeat(np.array([sources.index(name) for name in names], np.int16), counts),
        starts=starts_of(np.array(counts, np.int64)),
        sample_ids=whole("sample_ids"),
        num_ids=whole("num_ids"),
        loss_tokens=whole("loss_tokens"),
        image_starts=narrow(starts_of(whole("num_images"))),
        width=whole("width"),
        height=whole("height"),
        size=narrow(whole("size")),
        content=whole("content"),
        content_starts=narrow(starts_of(whole("num_content"))),
    )


def narrow(values: NDArray[np.int64]) -> NDArray[np.integer]:
    """The same as int32 where that holds every value: half the memory, of columns with a line a sample."""
    return values.astype(np.int32) if not len(values) or values.max() < 2**31 else values


def recounted(corpus: Corpus, stores: Mapping[int, Store]) -> Corpus:
    """The corpus with the tokens of these partitions as other stores of the same samples have them."""
    num_ids, loss_tokens = corpus.num_ids.copy(), corpus.loss_tokens.copy()
    for number, store in stores.items():
        first, end = corpus.starts[number : number + 2]
        num_ids[first:end], loss_tokens[first:end] = np.diff(store.starts), store.loss_tokens
    return replace(corpus, num_ids=num_ids, loss_tokens=loss_tokens)


def _columns(store: Store, content: bool) -> dict[str, NDArray[Any]]:
    columns = {
        "sample_ids": store.sample_ids,
        "num_ids": np.diff(store.starts),
        "loss_tokens": store.loss_tokens,
        "num_images": np.diff(store.image_starts),
        "width": store.images["width"],
        "height": store.images["height"],
        "size": own_sizes(store.images, store.clips),
    }
    if content:
        columns["content"], columns["num_content"] = _content(store)
    return columns


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
