"""Whether a sample's uid is in a published list: DataComp's sorted .npy of 128-bit numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mindvl_data.sources.subset import UidSubset
from mindvl_data.steps.scores.columns import write_columns


@dataclass(frozen=True)
class UidsTask:
    """A partition's samples table, the list, and the file for the column of truth values."""

    samples: Path
    column: str
    listed: Path
    out: Path


def look_up(task: UidsTask) -> None:
    """Write `task.out`: whether each sample's uid is listed; a sample without a uid is in no list."""
    uids = pl.read_parquet(task.samples, columns=["uid"])["uid"]
    times = UidSubset(task.listed).times(uids.to_list())
    write_columns(
        pl.DataFrame({task.column: pl.Series(times, dtype=pl.Int64) > 0}, schema={task.column: pl.Boolean}), task.out
    )
