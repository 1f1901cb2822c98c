"""The token store: the samples of one partition as ids, masks and image pointers, with random access.

Plain arrays on disk, memory-mapped: a later step reads what it needs of any sample without the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.runtime import seals

IMAGE = np.dtype(
    [
        ("uri", "<i4"),
        ("offset", "<i8"),
        ("size", "<i8"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("has_sha256", "?"),
        ("sha256", "u1", 32),
    ]
)


@dataclass(frozen=True)
class Store:
    """One partition's samples, n in all, in the order of the samples table.

    sample_ids: uint8 [n, 16]. ids: int32 and loss: bool, of all samples in a row, one image_pad an image;
    starts: int64 [n + 1] into both. loss_tokens: int32 [n]. images: IMAGE, of all samples in a row, their
    `uri` into `uris`; image_starts: int64 [n + 1]. text_hash: uint8 [n, 32].
    """

    sample_ids: NDArray[np.uint8]
    ids: NDArray[np.int32]
    loss: NDArray[np.bool_]
    starts: NDArray[np.int64]
    loss_tokens: NDArray[np.int32]
    images: NDArray[Any]
    image_starts: NDArray[np.int64]
    text_hash: NDArray[np.uint8]
    uris: Sequence[str]

    def __len__(self) -> int:
        return len(self.sample_ids)


ARRAYS = tuple(field.name for field in fields(Store) if field.name != "uris")
URIS = "uris.json"
# All but the tokens themselves: what a corpus is made from.
OF_CORPUS = (*(f"{name}.npy" for name in ARRAYS if name not in ("ids", "loss")), URIS)


def write_store(folder: Path, store: Store) -> None:
    """Write to `folder`, which appears whole and sealed."""
    with seals.sealed(folder) as partial:
        partial.mkdir(parents=True)
        for name in ARRAYS:
            np.save(partial / f"{name}.npy", getattr(store, name), allow_pickle=False)
        (partial / URIS).write_text(json.dumps(list(store.uris)))


def open_store(folder: Path) -> Store:
    """The store as memory maps."""
    uris = json.loads((folder / URIS).read_text())
    return Store(**{name: _open(folder / f"{name}.npy") for name in ARRAYS}, uris=uris)


def _open(path: Path) -> NDArray[Any]:
    # As a plain array: slicing a memmap object costs microseconds, and it is sliced once a sample.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def from_samples(
    samples: pa.RecordBatch,
    ids: NDArray[np.int32],
    loss: NDArray[np.bool_],
    starts: NDArray[np.int64],
    loss_tokens: NDArray[np.int32],
) -> Store:
    """A store of lines of the samples table (sample_id, text_hash, images) with their tokens."""
    images, uris = _images(samples.column("images"))
    return Store(
        sample_ids=_bytes(samples.column("sample_id"), 16),
        ids=ids,
        loss=loss,
        starts=starts,
        loss_tokens=loss_tokens,
        images=images,
        image_starts=starts_of(samples.column("images").value_lengths().to_numpy(zero_copy_only=False)),
        text_hash=_bytes(samples.column("text_hash"), 32),
        uris=uris,
    )


def _bytes(column: pa.Array, width: int) -> NDArray[np.uint8]:
    """uint8 [lines, width] of a column of so many bytes a line, no line of which is null."""
    start = width * column.offset
    return np.frombuffer(column.buffers()[1], np.uint8)[start : start + width * len(column)].reshape(-1, width)


def _images(column: pa.Array) -> tuple[NDArray[Any], list[str]]:
    struct = column.flatten()
    uri = struct.field("uri").dictionary_encode()
    table = np.zeros(len(struct), IMAGE)
    table["uri"] = uri.indices.to_numpy(zero_copy_only=False)
    for name in ("offset", "size", "width", "height"):
        table[name] = struct.field(name).to_numpy(zero_copy_only=False)
    digest = struct.field("sha256")
    table["has_sha256"] = digest.is_valid().to_numpy(zero_copy_only=False)
    table["sha256"] = _bytes(digest.fill_null(bytes(32)), 32)
    return table, uri.dictionary.to_pylist()


def starts_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Lengths [n] → where each begins in a row, and the end: int64 [n + 1]."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
