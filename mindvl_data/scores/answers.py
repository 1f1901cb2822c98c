"""What models said, by the content that they were asked about: kept as it comes, so that nothing is asked twice.

A folder of Parquet files, one a batch of answers, each appearing whole. Answers are found by a 128-bit key of a
sample's images and text: a file that was moved, split or scanned anew is not asked about again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.draws import hashed

KEY = "key"


def content_keys(samples: Path, rows: NDArray[np.int64]) -> pl.Series:
    """A key of the images and the text of these lines of a samples table: Binary [n] of 16 bytes."""
    table = pq.read_table(samples, columns=["text_hash", "images"]).take(rows)
    words = np.frombuffer(b"".join(table.column("text_hash").to_pylist()), "<u8").reshape(-1, 4)
    keys = hashed(words[:, :2].astype(np.uint64), 0, "content")
    images = table.column("images").combine_chunks()
    digests = np.frombuffer(b"".join(images.flatten().field("sha256").to_pylist()), "<u8").reshape(-1, 4)
    owner = np.repeat(np.arange(len(rows)), images.value_lengths().to_numpy(zero_copy_only=False))
    # One image after the other goes into its sample's key: their order counts.
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    for turn in range(int(place.max(initial=-1)) + 1):
        mine = place == turn
        keys[owner[mine]] = hashed(keys[owner[mine]] ^ digests[mine][:, :2].astype(np.uint64), turn, "image")
    return pl.Series(KEY, [key.tobytes() for key in keys], dtype=pl.Binary)


class Answers:
    """The answers of one score: a column of keys and the score's columns."""

    def __init__(self, folder: Path, schema: Mapping[str, pl.DataType]) -> None:
        self._folder = folder
        self._schema = pl.Schema({KEY: pl.Binary(), **schema})
        folder.mkdir(parents=True, exist_ok=True)
        parts = [pl.read_parquet(path) for path in sorted(folder.glob("*.parquet"))]
        self._table = pl.concat([pl.DataFrame(schema=self._schema), *parts])
        self._parts = len(parts)

    def __len__(self) -> int:
        return len(self._table)

    def unknown(self, keys: pl.Series) -> NDArray[np.int64]:
        """The places in `keys` of those that have no answer yet, the first of equal ones."""
        places = pl.DataFrame({KEY: keys}).with_row_index("place")
        asked = places.unique(KEY, keep="first", maintain_order=True)
        return asked.join(self._table.select(KEY), on=KEY, how="anti", maintain_order="left")["place"].to_numpy()

    def add(self, answers: pl.DataFrame) -> None:
        """Keep a batch; it is on disk when this returns."""
        if not len(answers):
            return
        answers = answers.select(list(self._schema)).cast(self._schema)
        path = self._folder / f"{self._parts:06d}.parquet"
        partial = path.with_suffix(".partial")
        answers.write_parquet(partial)
        partial.rename(path)
        self._parts += 1
        self._table = pl.concat([self._table, answers])

    def of(self, keys: pl.Series) -> pl.DataFrame:
        """The answer for each key, null where there is none: the score's columns, [n]."""
        joined = pl.DataFrame({KEY: keys}).join(self._table, on=KEY, how="left", maintain_order="left")
        return joined.drop(KEY)
