"""One type for each of the data's own columns over all files: what a rule makes of a value may not depend on the file
that it lies in. Types that differ are promoted where no value changes, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import polars as pl

from mindvl_data.runtime import seals
from mindvl_data.sources import SourceError
from mindvl_data.steps.filters import depends_on_type
from mindvl_data.tables.schema import BOXES

if TYPE_CHECKING:
    from mindvl_data.pipeline.run import Run

# Every whole number up to it is a float too.
EXACT_FLOATS = 2**53
FILES_SHOWN = 3
WORDS = {pl.Int64: "whole numbers", pl.Float64: "numbers", pl.String: "text", pl.Boolean: "true and false"}


class Columns(NamedTuple):
    """The file of columns that the scan of one file of a source kept; `uri` is the latter's."""

    source: str
    uri: str
    path: Path


# The files that have a column in each type.
OfKind: TypeAlias = dict[pl.DataType, list[Columns]]
# The same by source and column.
Found: TypeAlias = dict[tuple[str, str], OfKind]


def kinds_found(files: Sequence[Columns]) -> Found:
    """The types of every column of the data that was kept."""
    found: Found = {}
    for file in files:
        for name, kind in pl.read_parquet_schema(seals.checked(file.path)).items():
            if name != BOXES:
                found.setdefault((file.source, name), {}).setdefault(kind, []).append(file)
    return found


def one_kind(run: Run, found: Found) -> dict[str, dict[str, pl.DataType]]:
    """The type that each column is read as, by source and name: of a source one, and of all where that can be.

    Raises SourceError where files of one source differ in a column of which a rule reads the values as they are.
    """
    kinds = {(source, name): common(name, of_kind) for (source, name), of_kind in found.items()}
    for (source, name), kind in kinds.items():
        rules = [rule for rule in run.naming if rule.applies_to(source)]
        if kind is None and any(depends_on_type(rule, name) for rule in rules):
            raise SourceError(_differing(source, name, found[source, name]))
    # A group of 1 and one of 1.0 would be two, where a column is whole in one source alone.
    everywhere = {name: common(name, _together(found, name)) for name in {name for _, name in found}}
    read: dict[str, dict[str, pl.DataType]] = {source: {} for source, _ in found}
    for (source, name), kind in kinds.items():
        if (promoted := everywhere[name] or kind) is not None:
            read[source][name] = promoted
    return read


def _together(found: Found, name: str) -> OfKind:
    together: OfKind = {}
    for (_, column), of_kind in found.items():
        for kind, files in of_kind.items() if column == name else ():
            together.setdefault(kind, []).extend(files)
    return together


def common(name: str, of_kind: OfKind) -> pl.DataType | None:
    """The type that holds a column's values in all of these unchanged; None where there is none."""
    kinds = {kind for kind in of_kind if kind != pl.Null}
    if len(kinds) < 2:
        return next(iter(kinds), None)
    if kinds == {pl.Int64(), pl.Float64()}:
        return pl.Float64() if _floats_hold(name, of_kind[pl.Int64()]) else None
    return pl.Datetime("us") if kinds == {pl.Date(), pl.Datetime("us")} else None


def _floats_hold(name: str, files: Sequence[Columns]) -> bool:
    """Whether every whole number of a column is a float too."""
    columns = (pl.read_parquet(file.path, columns=[name])[name] for file in files)
    return all(column.is_between(-EXACT_FLOATS, EXACT_FLOATS).all() for column in columns)


def _differing(source: str, name: str, of_kind: Mapping[pl.DataType, Sequence[Columns]]) -> str:
    said = "; ".join(_said(name, kind, files) for kind, files in of_kind.items() if kind != pl.Null)
    return (
        f"sources.{source}: `{name}` has no one type: {said}. Mend the data, or write for it what is the same "
        f"of each, as `try_cast({name} as double)` is"
    )


def _said(name: str, kind: pl.DataType, files: Sequence[Columns]) -> str:
    """A type, and how many values of it lie where."""
    values = sum(pl.read_parquet(file.path, columns=[name])[name].count() for file in files)
    uris = sorted({file.uri for file in files})
    shown = ", ".join(uris[:FILES_SHOWN]) + (", …" if len(uris) > FILES_SHOWN else "")
    word = WORDS.get(type(kind), f"{kind}")
    return f"{word} in {len(uris):,} file{'s' * (len(uris) > 1)} ({values:,} values: {shown})"
