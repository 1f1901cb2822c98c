"""Which samples one build draws and another does not, and what became of them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mindvl_data.errors import UserError
from mindvl_data.inspect.report.columns import ledger, tables
from mindvl_data.inspect.report.sets import subject
from mindvl_data.manifest import Manifest

SHOWN = 5
NOT_DRAWN = "kept, but not drawn"
NOT_THERE = "in none of its sources"
UNKNOWN = "not known: its build folder is not at hand"


@dataclass(frozen=True)
class Side:
    """One of the two: its packed sets, and the folder with samples and ledger, None where that is not at hand."""

    manifests: Sequence[Manifest]
    build: Path | None

    @cached_property
    def drawn(self) -> pl.DataFrame:
        """Every sample that a set draws, and how often: sample_id, draws. Raises UserError where no list says it."""
        frames = []
        for manifest in self.manifests:
            path = manifest.path.parent / manifest.data["draws"]["path"]
            if manifest.store is not None or not path.is_file():
                raise UserError(f"{manifest.where}: its draws are not beside it; compare the build folders")
            frames.append(pl.scan_parquet(path).select(pl.col("sample_id").cast(pl.Binary)))
        return pl.concat(frames).group_by("sample_id").agg(draws=pl.len()).collect()

    @cached_property
    def samples(self) -> pl.DataFrame:
        """Every sample that the scan found: sample_id, source, file, key."""
        frames = [
            pl.read_parquet(table.samples, columns=["sample_id", "key"]).with_columns(
                pl.col("sample_id").cast(pl.Binary), source=pl.lit(table.source), file=pl.lit(table.file)
            )
            for table in (tables(self.build) if self.build else ())
        ]
        schema = {
            name: pl.Binary if name == "sample_id" else pl.String for name in ("sample_id", "key", "source", "file")
        }
        return pl.concat([pl.DataFrame(schema=schema), *frames])

    @cached_property
    def dropped(self) -> pl.DataFrame:
        """Every sample that left, and for what: sample_id, state."""
        if self.build is None:
            return pl.DataFrame(schema={"sample_id": pl.Binary, "state": pl.String})
        return ledger(self.build).select("sample_id", "state").unique("sample_id", keep="first").collect()


def side(place: str) -> Side:
    """A build folder or a manifest. Raises UserError where there is none."""
    found = subject(place)
    return Side([*found.manifests.values()], found.build)


def only_in(mine: Side, other: Side) -> pl.DataFrame:
    """The samples that one side draws and the other does not: sample_id, draws, source, file, key, `why` there."""
    only = mine.drawn.join(other.drawn, "sample_id", how="anti").join(mine.samples, "sample_id", how="left")
    there = other.samples.select("sample_id", there=pl.lit(True))
    joined = only.join(other.dropped, "sample_id", how="left").join(there, "sample_id", how="left")
    absent = UNKNOWN if other.build is None else NOT_THERE
    kept = pl.when(pl.col("there")).then(pl.lit(NOT_DRAWN)).otherwise(pl.lit(absent))
    why = pl.coalesce("state", kept)
    return joined.with_columns(why=why).drop("state", "there").sort("sample_id")


def compared(a: Side, b: Side) -> dict[str, Any]:
    """How many samples both draw, how many of those not equally often, and what only one has, by source and reason."""
    both = a.drawn.join(b.drawn, "sample_id", suffix="_b")
    return {
        "both": len(both),
        "other_draws": int((both["draws"] != both["draws_b"]).sum()),
        "only_a": _told(only_in(a, b)),
        "only_b": _told(only_in(b, a)),
    }


def _told(only: pl.DataFrame) -> dict[str, Any]:
    groups = only.group_by("source", "why").agg(
        samples=pl.len(), examples=pl.col("sample_id").sort().head(SHOWN).bin.encode("hex")
    )
    return {
        "samples": len(only),
        "groups": groups.sort("samples", "source", "why", descending=[True, False, False]).to_dicts(),
    }


def view(found: Mapping[str, Any]) -> RenderableType:
    """The same for a person."""
    head = f"{found['both']:,} samples are drawn by both, {found['other_draws']:,} of them not equally often."
    parts = [
        _table(f"Only in {name}", found[f"only_{name.lower()}"], other) for name, other in (("A", "B"), ("B", "A"))
    ]
    return Group(Text(head, style="bold"), *parts)


def _table(title: str, told: Mapping[str, Any], other: str) -> Table:
    table = Table(title=f"{title}: {told['samples']:,}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("source", f"what became of them in {other}"):
        table.add_column(column)
    table.add_column("samples", justify="right")
    table.add_column("for example")
    for line in told["groups"]:
        table.add_row(line["source"] or "?", line["why"], f"{line['samples']:,}", line["examples"][0])
    return table
