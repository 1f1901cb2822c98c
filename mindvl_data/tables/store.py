"""The token store: the samples of one partition as ids, masks and image pointers, with random access.

Plain arrays on disk, memory-mapped: a later step reads what it needs of any sample without the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.vision import Frame, Resolution, patch_grids

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

# What a line of IMAGE stands for in a store with clips: of a clip its grid, the frames that it shows (from `start` on,
# `count` of them), whether its bytes are those of the entry before; all zero for a picture.
CLIP = np.dtype(
    [("grid", "<i2", 3), ("shares", "?"), ("seconds", "<f8"), ("start", "<i8"), ("count", "<i4")],
)
# A frame as `vision.Frame` has it; `by` says whether pts and key are there, or offset and size, or neither.
FRAME = np.dtype(
    [
        ("index", "<i4"),
        ("time", "<f8"),
        ("by", "i1"),
        ("pts", "<i8"),
        ("key", "<i8"),
        ("offset", "<i8"),
        ("size", "<i8"),
    ]
)
COUNTED, SOUGHT, IN_A_ROW = range(3)


class Entry(Protocol):
    """What `tokenise.clips.Entry` has."""

    @property
    def image(self) -> int: ...
    @property
    def grid(self) -> tuple[int, int, int] | None: ...
    @property
    def frames(self) -> tuple[Frame, ...]: ...
    @property
    def seconds(self) -> float: ...
    @property
    def shares(self) -> bool: ...
    @property
    def own(self) -> tuple[int, int, bytes] | None: ...


@dataclass(frozen=True)
class Store:
    """One partition's samples, n in all, in the order of the samples table.

    sample_ids: uint8 [n, 16]. ids: int32 and loss: bool, of all samples in a row, one image_pad an image;
    starts: int64 [n + 1] into both. loss_tokens: int32 [n]. images: IMAGE, of all samples in a row, their
    `uri` into `uris`; image_starts: int64 [n + 1]. text_hash: uint8 [n, 32]. clips, frames: CLIP [images] and FRAME,
    where the partition has clips; there an image is what one placeholder stands for, and of a clip's entry `width` and
    `height` are -w and -t · h of its grid. weights: float32, of all samples in a row, what loss weighs; None: 1.
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
    clips: NDArray[Any] | None = None
    frames: NDArray[Any] | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def without_tokens(self) -> Store:
        """The same without what grows with the text: its `starts` stay."""
        return replace(self, ids=self.ids[:0].copy(), loss=self.loss[:0].copy(), weights=None)


OPTIONAL = ("clips", "frames", "weights")
ARRAYS = tuple(field.name for field in fields(Store) if field.name != "uris")
URIS = "uris.json"
# All but the tokens themselves: what a corpus is made from.
OF_CORPUS = (*(f"{name}.npy" for name in ARRAYS if name not in ("ids", "loss", *OPTIONAL)), URIS)


def of_corpus(folder: Path) -> tuple[str, ...]:
    """The files of a store that the corpus is made of."""
    return (*OF_CORPUS, "clips.npy") if (folder / "clips.npy").exists() else OF_CORPUS


def open_store(folder: Path) -> Store:
    """The store as memory maps."""
    uris = json.loads((folder / URIS).read_text())
    there = [name for name in ARRAYS if name not in OPTIONAL or (folder / f"{name}.npy").exists()]
    return Store(**{name: _open(folder / f"{name}.npy") for name in there}, uris=uris)


def weighted_rows(folder: Path) -> NDArray[np.bool_] | None:
    """Which samples of a store have a loss that weighs anything else than 1, bool [n]; None where none has."""
    if not (folder / "weights.npy").exists():
        return None
    starts, weights = _open(folder / "starts.npy"), _open(folder / "weights.npy")
    other = starts_of((weights != 1).astype(np.int64))
    return np.asarray(np.diff(other[starts]) > 0)


def image_grids(width: NDArray[np.integer], height: NDArray[np.integer], resolution: Resolution) -> NDArray[np.int64]:
    """Of images as a store has them (h, w) in patches, int64 [n, 2]: by the resize rule; of a clip (t · h, w)."""
    clip = width < 0
    if not clip.any():
        return patch_grids(width, height, resolution).astype(np.int64)
    grids = np.stack([-height.astype(np.int64), -width.astype(np.int64)], axis=1)
    grids[~clip] = patch_grids(width[~clip], height[~clip], resolution)
    return grids


def own_sizes(images: NDArray[Any], clips: NDArray[Any] | None) -> NDArray[np.int64]:
    """Bytes of each image, int64 [n]: a clip's count at the first of its entries."""
    sizes: NDArray[np.int64] = images["size"].astype(np.int64)
    return sizes if clips is None else np.where(clips["shares"], 0, sizes)


def frame_rows(frames: Sequence[Frame]) -> NDArray[Any]:
    """Frames as FRAME [n]."""
    rows = np.zeros(len(frames), FRAME)
    for row, frame in zip(rows, frames, strict=True):
        by = SOUGHT if frame.pts is not None else COUNTED if frame.size is None else IN_A_ROW
        row["index"], row["time"], row["by"] = frame.index, frame.time, by
        row["pts"], row["key"], row["offset"], row["size"] = (
            value or 0 for value in (frame.pts, frame.key, frame.offset, frame.size)
        )
    return rows


def frames_of_rows(rows: NDArray[Any]) -> tuple[Frame, ...]:
    """The inverse of `frame_rows`."""
    found = []
    for index, time, by, pts, key, offset, size in rows.tolist():
        sought, in_a_row = by == SOUGHT, by == IN_A_ROW
        found.append(
            Frame(
                index,
                time,
                pts if sought else None,
                key if sought else None,
                offset if in_a_row else None,
                size if in_a_row else None,
            )
        )
    return tuple(found)


def _open(path: Path) -> NDArray[Any]:
    # As a plain array: slicing a memmap object costs microseconds, and it is sliced once a sample.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def from_samples(
    samples: pa.RecordBatch,
    ids: NDArray[np.int32],
    loss: NDArray[np.bool_],
    starts: NDArray[np.int64],
    loss_tokens: NDArray[np.int32],
    entries: Sequence[Sequence[Entry]] | None = None,
    frames_uri: str = "",
) -> Store:
    """A store of lines of the samples table (sample_id, text_hash, images) with their tokens.

    entries: where the partition has clips, what each placeholder of each line stands for. frames_uri: where those of
    them lie that have bytes of their `own`.
    """
    images, uris = _images(samples.column("images"))
    store = Store(
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
    return store if entries is None else _with_clips(store, entries, frames_uri)


def _with_clips(store: Store, entries: Sequence[Sequence[Entry]], frames_uri: str) -> Store:
    """The store with an image an entry in the place of one a picture or clip."""
    counts = np.array([len(line) for line in entries], np.int64)
    flat = [entry for line in entries for entry in line]
    of_image = np.array([entry.image for entry in flat], np.int64)
    images = store.images[np.repeat(store.image_starts[:-1], counts) + of_image]
    clips = np.zeros(len(flat), CLIP)
    for number, entry in enumerate(flat):
        if entry.grid is not None:
            t, h, w = entry.grid
            images["width"][number], images["height"][number] = -w, -t * h
            clips[number] = (entry.grid, entry.shares, entry.seconds, 0, len(entry.frames))
        if entry.own is not None:
            offset, size, sha256 = entry.own
            images["uri"][number], images["offset"][number], images["size"][number] = len(store.uris), offset, size
            images["has_sha256"][number], images["sha256"][number] = True, np.frombuffer(sha256, np.uint8)
    clips["start"] = starts_of(clips["count"])[:-1]
    frames = frame_rows([frame for entry in flat for frame in entry.frames])
    uris = [*store.uris, frames_uri] if any(entry.own for entry in flat) else store.uris
    return replace(store, images=images, image_starts=starts_of(counts), clips=clips, frames=frames, uris=uris)


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
