"""Filters: Polars SQL expressions over the samples table, and which samples each one drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mindvl_data.recipe import Filter, RecipeError
from mindvl_data.schema import FILTER_COLUMNS

NO_FILTER = -1


@dataclass(frozen=True)
class FilterTask:
    """One partition and the filters of the recipe."""

    source: str
    kind: str
    samples: Path
    filters: tuple[Filter, ...]


def expressions(filters: Sequence[Filter]) -> list[pl.Expr]:
    """The parsed filters. Raises RecipeError naming the YAML path of one that does not parse."""
    parsed = []
    known = {*FILTER_COLUMNS, "source", "kind"}
    for number, rule in enumerate(filters):
        place = f"filters.{number}.where"
        try:
            parsed.append(pl.sql_expr(rule.where))
        except pl.exceptions.PolarsError as error:
            raise RecipeError(f"{place}: {rule.where!r} is no SQL expression: {error}") from error
        unknown = sorted(set(parsed[-1].meta.root_names()) - known)
        if unknown:
            raise RecipeError(f"{place}: there is no column {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    return parsed


def dropped_by(task: FilterTask) -> NDArray[np.int16]:
    """For every line of the partition the number of the first filter that drops it, or NO_FILTER: int16 [n]."""
    parsed = expressions(task.filters)
    asked = {name for expression in parsed for name in expression.meta.root_names()}
    table = pl.read_parquet(task.samples, columns=[name for name in FILTER_COLUMNS if name in asked] or ["key"])
    table = table.with_columns(source=pl.lit(task.source), kind=pl.lit(task.kind))
    first = np.full(len(table), NO_FILTER, np.int16)
    for number, (rule, expression) in enumerate(zip(task.filters, parsed, strict=True)):
        if rule.sources is None or task.source in rule.sources:
            first[(first == NO_FILTER) & ~_holds(table, rule, expression, number)] = number
    return first


def _holds(table: pl.DataFrame, rule: Filter, expression: pl.Expr, number: int) -> NDArray[np.bool_]:
    try:
        column = table.select(held=expression).to_series()
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"filters.{number}.where: {rule.where!r} cannot be evaluated: {error}") from error
    if column.dtype != pl.Boolean:
        raise RecipeError(f"filters.{number}.where: {rule.where!r} is {column.dtype}, not true or false")
    return column.fill_null(rule.missing == "keep").extend_constant(True, max(0, len(table) - len(column))).to_numpy()
