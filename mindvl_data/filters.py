"""Filters: Polars SQL expressions over the samples table, and which samples each one drops."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.recipe import Filter, RecipeError
from mindvl_data.schema import FILTER_COLUMNS

NO_FILTER = -1
ACROSS_LINES = ("Agg", "Over", "Window", "Len")
KNOWN = frozenset({*FILTER_COLUMNS, "source", "kind"})


@dataclass(frozen=True)
class FilterTask:
    """One partition and the filters of the recipe. columns: the data's own columns that they name, if any."""

    source: str
    kind: str
    samples: Path
    columns: Path | None
    filters: tuple[Filter, ...]


def expressions(filters: Sequence[Filter]) -> list[pl.Expr]:
    """The parsed filters. Raises RecipeError naming the YAML path of one that does not parse."""
    parsed = []
    for number, rule in enumerate(filters):
        try:
            parsed.append(pl.sql_expr(rule.where))
        except pl.exceptions.PolarsError as error:
            raise RecipeError(f"filters.{number}.where: {rule.where!r} is no SQL expression: {error}") from error
        # Partitions are filtered one by one: what looks at several lines would depend on how data lies in files.
        if any(f'"{node}"' in parsed[-1].meta.serialize(format="json") for node in ACROSS_LINES):
            raise RecipeError(
                f"filters.{number}.where: {rule.where!r} looks at more than one sample (an aggregate or a window); "
                "a filter decides each sample by itself"
            )
    return parsed


def data_columns(filters: Sequence[Filter], source: str) -> tuple[str, ...]:
    """The columns that filters of a source name and the samples table has not: fields of the data itself."""
    mine = [rule for rule in filters if rule.sources is None or source in rule.sources]
    named = {name for expression in expressions(mine) for name in expression.meta.root_names()}
    return tuple(sorted(named - KNOWN))


def check_columns(filters: Sequence[Filter], found: Collection[str]) -> None:
    """Raises RecipeError where a filter names a column that neither the samples table nor any data has."""
    for number, expression in enumerate(expressions(filters)):
        for name in sorted(set(expression.meta.root_names()) - KNOWN - set(found)):
            near = difflib.get_close_matches(name, KNOWN, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise RecipeError(
                f"filters.{number}.where: there is no column {name!r} in any sample; {hint}beside the fields of the "
                f"data that are single values there are: {', '.join(sorted(KNOWN))}"
            )


def dropped_by(task: FilterTask) -> NDArray[np.int16]:
    """For every line of the partition the number of the first filter that drops it, or NO_FILTER: int16 [n]."""
    parsed = expressions(task.filters)
    asked = {name for expression in parsed for name in expression.meta.root_names()}
    table = pl.read_parquet(task.samples, columns=[name for name in FILTER_COLUMNS if name in asked] or ["key"])
    if task.columns:
        table = table.hstack(pl.read_parquet(task.columns))
    table = table.with_columns(source=pl.lit(task.source), kind=pl.lit(task.kind))
    first = np.full(len(table), NO_FILTER, np.int16)
    for number, (rule, expression) in enumerate(zip(task.filters, parsed, strict=True)):
        if rule.sources is None or task.source in rule.sources:
            first[(first == NO_FILTER) & ~_holds(table, rule, expression, number)] = number
    return first


def _holds(table: pl.DataFrame, rule: Filter, expression: pl.Expr, number: int) -> NDArray[np.bool_]:
    try:
        # with_columns, so that a constant holds or fails for every line.
        column = table.with_columns(__held=expression)["__held"]
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"filters.{number}.where: {rule.where!r} cannot be evaluated: {error}") from error
    if column.dtype != pl.Boolean:
        raise RecipeError(f"filters.{number}.where: {rule.where!r} is {column.dtype}, not true or false")
    return column.fill_null(rule.missing == "keep").to_numpy()
