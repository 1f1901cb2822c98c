"""What models said, by the content that they were asked about: kept as it comes, so that nothing is asked twice.

A folder of Parquet files, one a batch of answers, each appearing whole. Answers are found by a 128-bit key of a
sample's images and text: a file that was moved, split or scanned anew is not asked about again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.runtime import seals

KEY = "key"
PLACES = {KEY: pl.Binary, "part": pl.UInt32, "row": pl.UInt32}
# A file holds so many answers, or those of so many seconds: what a killed build asks about again.
PART_ANSWERS = 4096
PART_SECONDS = 20.0


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
    """The answers of one score: keys in memory, where each answer lies, and the rest on disk until it is asked for."""

    def __init__(self, folder: Path, schema: Mapping[str, pl.DataType]) -> None:
        self._folder = folder
        self._schema = pl.Schema({KEY: pl.Binary(), **schema})
        folder.mkdir(parents=True, exist_ok=True)
        self._parts = sorted(folder.glob("*.parquet"))
        self._fresh: list[pl.DataFrame] = []
        self._kept_at = time.monotonic()
        places = [
            _places(pl.read_parquet(seals.checked(path), columns=[KEY]), part) for part, path in enumerate(self._parts)
        ]
        self._known = pl.concat([pl.DataFrame(schema=PLACES), *places])

    def __len__(self) -> int:
        return len(self._known)

    def unknown(self, keys: pl.Series) -> NDArray[np.int64]:
        """The places in `keys` of those that have no answer yet, the first of equal ones."""
        places = pl.DataFrame({KEY: keys}).with_row_index("place")
        asked = places.unique(KEY, keep="first", maintain_order=True)
        return asked.join(self._known, on=KEY, how="anti", maintain_order="left")["place"].to_numpy()

    def add(self, answers: pl.DataFrame) -> None:
        """Keep a batch; on disk within seconds, and at the latest by `flush`."""
        self._fresh.append(answers.select(list(self._schema)).cast(self._schema))
        fresh = sum(map(len, self._fresh))
        if fresh >= PART_ANSWERS or time.monotonic() - self._kept_at > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is not on disk: a file, which appears whole."""
        fresh = pl.concat([pl.DataFrame(schema=self._schema), *self._fresh]).unique(KEY, maintain_order=True)
        self._fresh, self._kept_at = [], time.monotonic()
        if not len(fresh):
            return
        number = int(self._parts[-1].stem) + 1 if self._parts else 0
        path = self._folder / f"{number:06d}.parquet"
        with seals.sealed(path) as partial:
            fresh.write_parquet(partial)
        self._known = pl.concat([self._known, _places(fresh, len(self._parts))])
        self._parts.append(path)

    def of(self, keys: pl.Series, columns: Sequence[str]) -> pl.DataFrame:
        """These columns of the answer for each key, null where there is none: [n]."""
        asked = pl.DataFrame({KEY: keys}).with_row_index("place")
        found = asked.join(self._known, on=KEY, how="inner", maintain_order="left")
        frames = [
            pl.read_parquet(self._parts[part], columns=list(columns))
            .select(pl.all().gather(mine["row"]))
            .with_columns(mine["place"])
            for (part,), mine in sorted(found.partition_by("part", as_dict=True).items())
        ]
        empty = pl.DataFrame(schema={**{name: self._schema[name] for name in columns}, "place": asked["place"].dtype})
        said = pl.concat([empty, *frames])
        return asked.join(said, on="place", how="left", maintain_order="left").select(columns)


def _places(answers: pl.DataFrame, part: int) -> pl.DataFrame:
    """Where each answer of a file lies."""
    return answers.select(KEY).with_row_index("row").select(KEY, part=pl.lit(part, pl.UInt32), row="row")
