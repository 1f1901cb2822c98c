"""How much of the principal directions of all embeddings a sample carries: ScalSelect's leverage (arXiv 2602.11636).

Columns are standardised, lines brought to unit length: X [n, width]. Of its singular vectors the fewest that hold a
given share of Σ σ² are kept; a sample's score is the squared length of its line in the left ones, Σ_{j ≤ k} U_ij².
They need no decomposition of n lines: C = XᵀX = V Λ Vᵀ is a sum over files, and U = X V Λ^(-1/2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.runtime import seals
from mindvl_data.steps.scores import ScoreError
from mindvl_data.steps.scores.columns import write_columns

BATCH = 8192
# Directions whose energy is below this part of the largest one's are what rounding left of none.
NOISE = 1e-12


class Moments(NamedTuple):
    """Of n embeddings the mean and the sum of squared distances from it, both float64 [width]."""

    size: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]


class Directions(NamedTuple):
    """What places an embedding: mean and deviation, float64 [width]; V Λ^(-1/2), float64 [width, k]."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    axes: NDArray[np.float64]


@dataclass(frozen=True)
class DirectionsTask:
    """Files of a column of embeddings, the share of Σ σ² to hold, and the .npz for `Directions`."""

    embeddings: tuple[Path, ...]
    of: str
    energy: float
    out: Path


@dataclass(frozen=True)
class LeverageTask:
    """The file of a column of embeddings, the .npz of `Directions`, and the file for the new column."""

    embeddings: Path
    of: str
    directions: Path
    column: str
    out: Path


def find_directions(task: DirectionsTask) -> None:
    """Write `task.out`: the files are read twice, a batch at a time. Raises ScoreError without embeddings."""
    found = moments(_vectors(task.embeddings, task.of))
    if found is None:
        raise ScoreError(f"no sample has an embedding {task.of}, of which the leverage is asked for")
    deviation = deviations(found)
    width = len(found.mean)
    products = np.zeros((width, width))
    for vectors in _vectors(task.embeddings, task.of):
        lines = standardised(vectors, found.mean, deviation)
        products += lines.T @ lines
    directions = Directions(found.mean, deviation, principal(products, task.energy))
    with seals.sealed(task.out) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **directions._asdict())


def score(task: LeverageTask) -> None:
    """Write `task.out`, Float32; null where the embedding is, or has a value that is no number. Raises ScoreError."""
    with np.load(task.directions) as file:
        directions = Directions(**file)
    parts = [_scored(column, directions, task) for column in _columns(task.embeddings, task.of)]
    values = np.concatenate([np.zeros(0, np.float32), *parts])
    write_columns(pl.DataFrame({task.column: values}), task.out)


def _scored(column: pa.Array, directions: Directions, task: LeverageTask) -> NDArray[np.float32]:
    """The scores of a batch, float32 [lines], NaN where there is none."""
    rows, vectors = _known(column, task.embeddings, task.of)
    values = np.full(len(column), np.nan, np.float32)
    if len(rows):
        values[rows] = leverage(vectors, directions)
    return values


def leverage(vectors: NDArray[np.floating], directions: Directions) -> NDArray[np.float64]:
    """Σ_{j ≤ k} U_ij² of every embedding, float64 [n].

    Args:
        vectors: [n, width].
    """
    places = standardised(vectors, directions.mean, directions.deviation) @ directions.axes
    squares: NDArray[np.float64] = (places**2).sum(axis=1)
    return squares


def moments(batches: Iterator[NDArray[np.floating]]) -> Moments | None:
    """Of all embeddings, merged batch by batch so that large means cost no digits (Chan et al. 1983); None of none."""
    total: Moments | None = None
    for vectors in batches:
        values = vectors.astype(np.float64)
        mean = values.mean(axis=0)
        mine = Moments(len(values), mean, ((values - mean) ** 2).sum(axis=0))
        total = mine if total is None else _merged(total, mine)
    return total


def _merged(left: Moments, right: Moments) -> Moments:
    size = left.size + right.size
    apart = right.mean - left.mean
    mean = left.mean + apart * (right.size / size)
    return Moments(size, mean, left.squares + right.squares + apart**2 * (left.size * right.size / size))


def deviations(found: Moments) -> NDArray[np.float64]:
    """Of every column, float64 [width]; 1 where a column is one value but for rounding, which becomes 0 so."""
    deviation = np.sqrt(found.squares / found.size)
    return np.where(deviation > np.abs(found.mean) * NOISE, deviation, 1.0)


def standardised(
    vectors: NDArray[np.floating], mean: NDArray[np.float64], deviation: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Lines of unit length, float64 [n, width]; the mean itself has no direction and stays 0."""
    lines: NDArray[np.float64] = (vectors.astype(np.float64) - mean) / deviation
    lines /= np.maximum(np.linalg.norm(lines, axis=1, keepdims=True), NOISE)
    return lines


def principal(products: NDArray[np.float64], energy: float) -> NDArray[np.float64]:
    """V_k Λ_k^(-1/2), float64 [width, k], of the fewest eigenvectors that hold `energy` of the trace.

    Args:
        products: XᵀX, float64 [width, width], whose eigenvalues are the σ² of X.
    """
    values, vectors = np.linalg.eigh(products)
    values, vectors = values[::-1], vectors[:, ::-1]
    values = np.where(values > values[0] * NOISE, values, 0.0)
    held = np.cumsum(values)
    enough = int(np.searchsorted(held, energy * held[-1] * (1 - NOISE))) + 1
    k = min(enough, int(np.count_nonzero(values)))
    return np.asarray(vectors[:, :k] / np.sqrt(values[:k]))


# ------------------------------------------------------------------------------------------ the files


def _vectors(files: Sequence[Path], of: str) -> Iterator[NDArray[np.floating]]:
    """The embeddings of all files, [at most BATCH, width] at a time."""
    for path in files:
        for column in _columns(path, of):
            _, vectors = _known(column, path, of)
            if len(vectors):
                yield vectors


def _columns(path: Path, of: str) -> Iterator[pa.Array]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH, columns=[of]):
            yield batch.column(0)


def _known(column: pa.Array, path: Path, of: str) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """The lines that have an embedding of finite numbers, int64 [n], and these, [n, width]. Raises ScoreError."""
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        return rows, np.zeros((0, 0))
    if not pa.types.is_list(column.type) and not pa.types.is_large_list(column.type):
        raise ScoreError(f"{path.name}: {of} is {column.type}, not lists of numbers")
    widths = np.unique(column.value_lengths().drop_null().to_numpy())
    if len(widths) != 1 or not widths[0]:
        raise ScoreError(f"{path.name}: {of} has embeddings of several widths, or of none: {widths.tolist()[:8]}")
    vectors = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(len(rows), -1)
    finite = np.isfinite(vectors).all(axis=1)
    return rows[finite], vectors[finite]
