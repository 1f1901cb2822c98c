"""The drop ledger: every sample that left, at which step, for which reason. One Parquet file a step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from mindvl_data import atomic
from mindvl_data.expanded import masked
from mindvl_data.runtime import seals
from mindvl_data.tables.schema import LEDGER, Drop

COLUMNS = LEDGER.names


def of_samples(named: tuple[str, str], samples: Path, step: str, lines: pl.DataFrame) -> pl.DataFrame:
    """Ledger lines of samples that the samples table holds; their locators come from it.

    Args:
        named: The source, and its file as outputs show it.
        lines: sample_id (Binary), reason, detail.
    """
    keys = pl.scan_parquet(samples).select(pl.col("sample_id").cast(pl.Binary), "key")
    located = lines.lazy().join(keys, on="sample_id", how="left").collect()
    return located.select(
        "sample_id",
        source=pl.lit(named[0]),
        locator=pl.concat_str(pl.lit(f"{named[1]}#"), "key"),
        step=pl.lit(step),
        reason="reason",
        detail="detail",
    )


def of_rows(
    named: tuple[str, str], samples: Path, rows: NDArray[Any], step: str, reason: str, details: pl.Series
) -> pl.DataFrame:
    """Ledger lines of these rows of a samples table, as columns: there may be millions.

    Args:
        named: The source, and its file as outputs show it.
        details: String [rows].
    """
    Drop(reason)
    table = pl.read_parquet(samples, columns=["sample_id", "key"]).select(pl.all().gather(rows))
    return table.select(
        pl.col("sample_id").cast(pl.Binary),
        source=pl.lit(named[0]),
        locator=pl.concat_str(pl.lit(f"{named[1]}#"), "key"),
        step=pl.lit(step),
        reason=pl.lit(reason),
        detail=details,
    )


def read(paths: Iterable[Path]) -> pl.DataFrame:
    """The ledger lines that a step's workers wrote, one file a partition."""
    empty = pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String) | {"sample_id": pl.Binary})
    frames = [pl.read_parquet(seals.checked(path)).with_columns(pl.col("sample_id").cast(pl.Binary)) for path in paths]
    return pl.concat([empty, *frames])


def write(folder: Path, name: str, frames: Sequence[pl.DataFrame]) -> None:
    """Write `folder/name.parquet`, sorted by sample id; it appears whole."""
    folder.mkdir(exist_ok=True)
    lines = pl.concat([read(()), *frames])
    texts = {name: _masked(lines[name]) for name in ("source", "locator", "step", "detail")}
    with atomic.whole(folder / f"{name}.parquet") as partial:
        lines.with_columns(**texts).sort(COLUMNS).write_parquet(partial)


def _masked(texts: pl.Series) -> pl.Series:
    """The same without values of the environment; looked for in each distinct text once."""
    distinct = texts.unique()
    hidden = pl.Series([text and masked(text) for text in distinct], dtype=pl.String)
    found = distinct.ne_missing(hidden)
    return texts.replace(distinct.filter(found), hidden.filter(found)) if found.any() else texts
