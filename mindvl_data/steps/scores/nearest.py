"""The nearest of given centres for every embedding, as DataComp's image-based filter asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.errors import reading
from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.columns import write_columns

BATCH = 8192


@dataclass(frozen=True)
class NearestTask:
    """The file of a column of embeddings, the centres, and the file for the new column.

    targets: embeddings, or numbers of centres: the column is then whether the nearest centre is one of theirs.
    """

    embeddings: Path
    of: str
    centres: Path
    targets: Path | None
    column: str
    out: Path


def place(task: NearestTask) -> None:
    """Write `task.out`: Int32, or Boolean with targets; null where the embedding is. Raises ScoreError."""
    centres = _matrix(task.centres)
    column = pl.read_parquet(task.embeddings, columns=[task.of])[task.of]
    known = column.drop_nulls()
    # Of none there is no telling how wide they are.
    width = -1 if len(known) else centres.shape[1]
    vectors = known.explode(empty_as_null=False).to_numpy().reshape(len(known), width).astype(np.float32)
    if vectors.shape[1] != centres.shape[1]:
        raise ScoreError(f"{task.centres}: centres of width {centres.shape[1]}, {task.of} has {vectors.shape[1]}")
    found = pl.Series(nearest(vectors, centres))
    if task.targets is not None:
        found = found.is_in(_targets(task.targets, centres).tolist())
    values = pl.Series(task.column, [None] * len(column), dtype=found.dtype)
    values = values.scatter(np.flatnonzero(column.is_not_null().to_numpy()), found)
    write_columns(values.to_frame(), task.out)


def nearest(vectors: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.int32]:
    """The number of the centre with the largest inner product (the first of several), int32 [n].

    Args:
        vectors: float32 [n, width].
        centres: float32 [centres, width].
    """
    found = [np.argmax(vectors[i : i + BATCH] @ centres.T, axis=1) for i in range(0, len(vectors), BATCH)]
    return np.concatenate([np.zeros(0, np.int64), *found]).astype(np.int32)


def _matrix(path: Path) -> NDArray[np.float32]:
    values = _loaded(path)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ScoreError(f"{path}: holds {values.dtype} {values.shape}, not floats [centres, width]")
    return values.astype(np.float32)


def _targets(path: Path, centres: NDArray[np.float32]) -> NDArray[np.int32]:
    values = _loaded(path)
    return np.unique(nearest(_matrix(path), centres) if values.ndim == 2 else values.astype(np.int32))


def _loaded(path: Path) -> NDArray[np.generic]:
    with reading(str(path), "a .npy file", ScoreError):
        loaded: NDArray[np.generic] = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise ScoreError(f"{path}: is an archive of arrays, not one .npy file")
    return loaded
