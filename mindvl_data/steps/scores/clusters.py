"""Concepts as clusters of embeddings: k-means by faiss on the unit sphere, over a sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import util
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.runtime import seals
from mindvl_data.steps.scores import ScoreError

# faiss advises 39 to 256 points a centre; more do not make centres better.
POINTS_PER_CENTRE = 256


@dataclass(frozen=True)
class ClustersTask:
    """Files of a column of embeddings, how many centres, and the .npy for them: float32 [centres, width]."""

    embeddings: tuple[Path, ...]
    of: str
    centres: int
    iterations: int
    seed: int
    out: Path


def cluster(task: ClustersTask) -> None:
    """Write `task.out`. Raises ScoreError where there are fewer embeddings than centres."""
    if util.find_spec("faiss") is None:
        raise ScoreError("the score clusters needs the extra [cluster]: pip install 'mindvl[cluster]'")
    import faiss

    points = _sampled(task.embeddings, task.of, task.centres * POINTS_PER_CENTRE, task.seed)
    if len(points) < task.centres:
        raise ScoreError(f"{len(points)} embeddings {task.of} are too few for {task.centres} clusters")
    means = faiss.Kmeans(
        points.shape[1],
        task.centres,
        niter=task.iterations,
        seed=task.seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTRE,
    )
    means.train(points)
    with seals.sealed(task.out) as partial, partial.open("wb") as file:
        np.save(file, np.asarray(means.centroids, np.float32))


def _sampled(files: Sequence[Path], of: str, most: int, seed: int) -> NDArray[np.float32]:
    """At most so many embeddings, in proportion from every file, chosen by a hash of their place."""
    counts = [int(pl.scan_parquet(path).select(pl.col(of).is_not_null().sum()).collect().item()) for path in files]
    share = min(1.0, most / max(1, sum(counts)))
    found = []
    for path, first in zip(files, np.cumsum([0, *counts[:-1]]).tolist(), strict=True):
        known = pl.read_parquet(path, columns=[of])[of].drop_nulls()
        places = np.arange(len(known), dtype=np.uint64) + np.uint64(first)
        chosen = hashed(places, seed, "clusters").astype(np.float64) < share * 2.0**64
        vectors = known.filter(pl.Series(chosen, dtype=pl.Boolean))
        if len(vectors):
            found.append(vectors.explode(empty_as_null=False).to_numpy().reshape(len(vectors), -1).astype(np.float32))
    points = np.concatenate(found) if found else np.zeros((0, 1), np.float32)
    return np.ascontiguousarray(points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12))
