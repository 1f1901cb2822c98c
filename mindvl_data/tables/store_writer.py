"""A token store written a batch at a time: of what grows with the text no more than a batch is ever in memory, though a
file of a few kilobytes may hold gigabytes of it."""

from __future__ import annotations

import io
import json
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mindvl_data.tables.store import CLIP, FRAME, IMAGE, URIS, Store, starts_of

# Of every batch: shape behind the first axis and type, which an empty store has too.
PER_SAMPLE: dict[str, NDArray[Any]] = {
    "sample_ids": np.zeros((0, 16), np.uint8),
    "loss_tokens": np.zeros(0, np.int32),
    "text_hash": np.zeros((0, 32), np.uint8),
}


class _GrowingArray:
    """An .npy file of one axis whose length is written at the end."""

    def __init__(self, file: IO[bytes], dtype: type[np.generic]) -> None:
        self._file, self._dtype, self._length = file, np.dtype(dtype), 0
        file.write(self._header())

    def append(self, part: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(part, self._dtype).data)
        self._length += len(part)

    def close(self) -> None:
        self._file.seek(0)
        # numpy leaves room in the header for an axis that grows.
        self._file.write(self._header())

    def _header(self) -> bytes:
        out = io.BytesIO()
        shape = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self._length,)}
        npy.write_array_header_1_0(out, shape)
        return out.getvalue()


class StoreWriter:
    """Writes the folder of one store; `with` closes it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder, self._files = folder, ExitStack()
        self._ids, self._loss = self._growing("ids", np.int32), self._growing("loss", np.bool_)
        self._weights: _GrowingArray | None = None
        self._tokens = 0
        # The batches without their tokens.
        self._rest: list[Store] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._files:
            if kind is None:
                self._close()

    def add(self, batch: Store) -> None:
        """The samples that come next."""
        self._add_weights(batch)
        self._ids.append(batch.ids)
        self._loss.append(batch.loss)
        self._tokens += len(batch.ids)
        self._rest.append(batch.without_tokens())

    def _growing(self, name: str, dtype: type[np.generic]) -> _GrowingArray:
        return _GrowingArray(self._files.enter_context((self._folder / f"{name}.npy").open("wb")), dtype)

    def _add_weights(self, batch: Store) -> None:
        """There are none before the first that is not 1."""
        if self._weights is None:
            if batch.weights is None or (batch.weights == 1).all():
                return
            self._weights = self._growing("weights", np.float32)
            self._weights.append(np.ones(self._tokens, np.float32))
        self._weights.append(np.ones(len(batch.ids), np.float32) if batch.weights is None else batch.weights)

    def _close(self) -> None:
        for growing in (self._ids, self._loss, self._weights):
            if growing is not None:
                growing.close()
        uris = sorted({uri for batch in self._rest for uri in batch.uris})
        (self._folder / URIS).write_text(json.dumps(uris))
        arrays = {name: self._together(name, empty) for name, empty in PER_SAMPLE.items()}
        arrays |= {name: self._starts(name) for name in ("starts", "image_starts")}
        arrays["images"] = np.concatenate([np.zeros(0, IMAGE), *_images(self._rest, uris)])
        if any(batch.clips is not None for batch in self._rest):
            arrays |= _clips(self._rest)
        for name, array in arrays.items():
            np.save(self._folder / f"{name}.npy", array, allow_pickle=False)

    def _together(self, name: str, empty: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([empty, *(getattr(batch, name) for batch in self._rest)])

    def _starts(self, name: str) -> NDArray[np.int64]:
        lengths = [np.diff(getattr(batch, name)) for batch in self._rest]
        return starts_of(np.concatenate([np.zeros(0, np.int64), *lengths]))


def _images(batches: list[Store], uris: list[str]) -> list[NDArray[Any]]:
    """Their images, with `uri` into `uris`."""
    place = {uri: number for number, uri in enumerate(uris)}
    images = []
    for batch in batches:
        table = batch.images.copy()
        table["uri"] = np.array([place[uri] for uri in batch.uris], np.int32)[batch.images["uri"]]
        images.append(table)
    return images


def _clips(batches: list[Store]) -> dict[str, NDArray[Any]]:
    clips, frames, start = [np.zeros(0, CLIP)], [np.zeros(0, FRAME)], 0
    for batch in batches:
        if batch.clips is not None and batch.frames is not None:
            moved = batch.clips.copy()
            moved["start"] += start
            start += len(batch.frames)
            clips.append(moved)
            frames.append(batch.frames)
    return {"clips": np.concatenate(clips), "frames": np.concatenate(frames)}
