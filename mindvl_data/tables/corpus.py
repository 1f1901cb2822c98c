"""Everything that can be drawn, as columns: where each sample lies and what it weighs, for every stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.tables.columns import SpilledColumn, chunks
from mindvl_data.tables.store import Store, own_sizes, starts_of


@dataclass(frozen=True)
class Corpus:
    """n samples of all sources, in the order of their partitions.

    source: int16 [n] into `sources`. starts: int64 [partitions + 1], where each store's lines begin. The rest lies in
    files (see columns.SpilledColumn). sample_ids: uint8 [n, 16]. num_ids: int32 [n], tokens with one an image.
    loss_tokens: int32 [n]. image_starts: int64 [n + 1] into width, height (int32, pixels; of a clip as the store has
    them) and size (int64, bytes).
    content, content_starts: see holdout; empty once that is done, or where nothing is held out.
    """

    sources: tuple[str, ...]
    source: NDArray[np.int16]
    starts: NDArray[np.int64]
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
        return len(self.source)

    def places(self, samples: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The store of each of these samples, and its line in it; both int32 [samples]."""
        partition, row = np.empty(len(samples), np.int32), np.empty(len(samples), np.int32)
        for start, end in chunks(len(samples)):
            some = samples[start:end]
            partition[start:end] = np.searchsorted(self.starts, some, side="right") - 1
            row[start:end] = some - self.starts[partition[start:end]]
        return partition, row

    def place(self, sample: int) -> tuple[int, int]:
        partition, row = self.places(np.array([sample]))
        return int(partition[0]), int(row[0])

    def without_content(self) -> Corpus:
        """The same for whoever holds nothing out any more."""
        return replace(self, content=np.zeros(0, np.uint64), content_starts=np.zeros(1, np.int64))


def from_stores(
    sources: tuple[str, ...], names: Sequence[str], stores: Iterable[Store], folder: Path, content: bool = True
) -> Corpus:
    """The columns of each store (of the source named beside it), read one store after another.

    folder: on the disk where the columns go. content: whether a set will be held out by it. Holds no store open,
    however many there are.
    """
    dtypes = {"num_ids": np.int32, "loss_tokens": np.int32, "image_starts": np.int64, "width": np.int32}
    dtypes |= {"height": np.int32, "size": np.int64, "content": np.uint64, "content_starts": np.int64}
    columns = {name: SpilledColumn(folder, dtype) for name, dtype in dtypes.items()}
    columns["sample_ids"] = SpilledColumn(folder, np.uint8, 16)
    ends = dict.fromkeys(("image_starts", "content_starts"), 0)
    for name in ends:
        columns[name].append(np.zeros(1, np.int64))
    counts = []
    for store in stores:
        counts.append(len(store))
        for name, part in _columns(store, content).items():
            if name in ends and len(part):
                part = ends[name] + part
                ends[name] = int(part[-1])
            columns[name].append(part)
    return Corpus(
        sources=sources,
        source=np.repeat(np.array([sources.index(name) for name in names], np.int16), counts),
        starts=starts_of(np.array(counts, np.int64)),
        **{name: column.values() for name, column in columns.items()},
    )


def recounted(corpus: Corpus, stores: Mapping[int, Store]) -> Corpus:
    """The corpus with the tokens of these partitions as other stores of the same samples have them."""
    num_ids, loss_tokens = corpus.num_ids.copy(), corpus.loss_tokens.copy()
    for number, store in stores.items():
        first, end = corpus.starts[number : number + 2]
        num_ids[first:end], loss_tokens[first:end] = np.diff(store.starts), store.loss_tokens
    return replace(corpus, num_ids=num_ids, loss_tokens=loss_tokens)


def _columns(store: Store, content: bool) -> dict[str, NDArray[Any]]:
    """A store's part of every column; of `starts` where each sample's end, in this store."""
    columns = {
        "sample_ids": store.sample_ids,
        "num_ids": np.diff(store.starts),
        "loss_tokens": store.loss_tokens,
        "image_starts": store.image_starts[1:],
        "width": store.images["width"],
        "height": store.images["height"],
        "size": own_sizes(store.images, store.clips),
    }
    if content:
        columns["content"], lengths = _content(store)
        columns["content_starts"] = np.cumsum(lengths)
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
