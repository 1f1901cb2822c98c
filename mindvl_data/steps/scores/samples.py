"""Samples as a model is asked about them: their images as bytes, their text, and the key of their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.steps.scores.compute import Pictures, texts


@dataclass(frozen=True)
class Asked:
    """Lines of one samples table, int64 [n], the key of each, and where images lie."""

    samples: Path
    rows: NDArray[np.int64]
    keys: pl.Series
    pictures: Pictures

    def parts(self, size: int) -> Iterator[Asked]:
        """The same lines in parts of so many."""
        for start in range(0, len(self.rows), size):
            yield replace(self, rows=self.rows[start : start + size], keys=self.keys.slice(start, size))


@dataclass(frozen=True)
class Batch:
    """Up to so many samples. parts: as the samples table has them."""

    keys: pl.Series
    texts: list[str]
    images: list[list[bytes]]
    parts: Sequence[Any]


def batches(asked: Asked, size: int, images: bool = True) -> Iterator[Batch]:
    """The samples in their order, so many at a time; without `images` none is read."""
    table = pq.read_table(asked.samples, columns=["images", "parts"]).take(asked.rows)
    with asked.pictures.opened() as reader:
        for start in range(0, len(table), size):
            part = table.slice(start, size).combine_chunks()
            parts = part.column("parts").combine_chunks()
            lines = part.column("images").to_pylist() if images else [[]] * len(part)
            data = [[reader.read(i["uri"], i["offset"], i["size"], i["sha256"]) for i in line] for line in lines]
            yield Batch(asked.keys.slice(start, size), texts(parts).to_list(), data, parts.to_pylist())
