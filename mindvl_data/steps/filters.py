"""Filters: Polars SQL expressions over a partition's columns, and which samples each one drops.

A NaN is a missing value, whether the data or a score has it or the expression makes it: Polars itself holds it for
larger than every number. Text is compared with text only: Polars would compare it with a number letter by letter.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
from numpy.typing import NDArray

from mindvl_data.expanded import masked
from mindvl_data.recipe import Filter, RecipeError
from mindvl_data.runtime import seals
from mindvl_data.steps import presets
from mindvl_data.tables.schema import FILTER_COLUMNS

NO_FILTER = -1
COMPARISONS = frozenset({"Eq", "NotEq", "Lt", "LtEq", "Gt", "GtEq", "EqMissing", "NotEqMissing"})
NULL_TESTS = ({"Boolean": "IsNull"}, {"Boolean": "IsNotNull"})
ACROSS_LINES = ("Agg", "Over", "Window", "Len")
KNOWN = frozenset({*FILTER_COLUMNS, "source", "kind"})


@dataclass(frozen=True)
class Rule:
    """One condition, of a filter or of a preset: `expression` holds, or is at least its source's threshold.

    place: its YAML path, for messages. top, per: see recipe.Filter. thresholds: by source, once they are known.
    """

    place: str
    name: str
    expression: str
    top: float | None
    per: str | None
    sources: tuple[str, ...] | None
    missing: str
    thresholds: Mapping[str, float] = field(default_factory=dict)

    def applies_to(self, source: str) -> bool:
        return self.sources is None or source in self.sources

    def said(self, source: str) -> str:
        """The rule in words, for the ledger."""
        if self.top is None:
            return masked(f"{self.name}: {self.expression}")
        return masked(f"{self.name}: {self.expression} >= {self.thresholds[source]!r}, its top {self.top:g}")


@dataclass(frozen=True)
class FilterTask:
    """One partition, the rules that come next, and what earlier ones made of it (see `dropped_by`).

    columns: files of columns beside the samples table: of the data, and of scores. first: number of the first
    of `rules` among all. kinds: the types that columns of the data are read as, where files may differ in them.
    """

    source: str
    kind: str
    samples: Path
    columns: tuple[Path, ...]
    rules: tuple[Rule, ...]
    first: int
    kinds: Mapping[str, pl.DataType] = field(default_factory=dict)


def rules_of(filters: Sequence[Filter]) -> tuple[Rule, ...]:
    """The recipe's filters as rules, presets as those they stand for, all of them parsed once. Raises RecipeError."""
    found = [rule for number, one in enumerate(filters) for rule in _rules(f"filters.{number}", one)]
    for rule in found:
        parse(rule)
    if twice := sorted({rule.name for rule in found if [r.name for r in found].count(rule.name) > 1}):
        raise RecipeError(f"filters: two have the name {twice[0]!r}")
    return tuple(found)


def _rules(place: str, one: Filter) -> list[Rule]:
    if one.preset is None:
        where = "of" if one.where is None else "where"
        expression = one.of if one.where is None else one.where
        assert expression is not None
        return [Rule(f"{place}.{where}", masked(one.name), expression, one.top, one.per, one.sources, one.missing)]
    missing = one.missing if "missing" in one.model_fields_set else "drop"
    name = masked(one.name or one.preset)
    return [
        Rule(f"{place}.preset", f"{name}: {c.name}", c.expression, c.top, one.per, one.sources, missing)
        for c in presets.conditions(place, one.preset, one.options)
    ]


def parse(rule: Rule) -> pl.Expr:
    """The expression of a rule. Raises RecipeError naming the YAML path of one that does not parse."""
    try:
        parsed = pl.sql_expr(rule.expression)
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{rule.place}: {rule.expression!r} is no SQL expression: {error}") from error
    # Partitions are filtered one by one: what looks at several lines would depend on how data lies in files.
    if any(f'"{node}"' in parsed.meta.serialize(format="json") for node in ACROSS_LINES):
        raise RecipeError(
            f"{rule.place}: {rule.expression!r} looks at more than one sample (an aggregate or a window); "
            "a filter decides each sample by itself"
        )
    return parsed


def named_by(rules: Sequence[Rule], source: str | None = None) -> set[str]:
    """The columns that rules (of one source) name."""
    mine = [rule for rule in rules if source is None or rule.applies_to(source)]
    return {name for rule in mine for name in parse(rule).meta.root_names()}


def depends_on_type(rule: Rule, name: str) -> bool:
    """Whether a rule reads a column in any other way than by a cast, or by asking whether it is null."""
    return _reads(json.loads(parse(rule).meta.serialize(format="json")), {"Column": name})


def _reads(tree: Any, column: Mapping[str, str]) -> bool:
    if isinstance(tree, list):
        return any(_reads(child, column) for child in tree)
    if not isinstance(tree, dict) or tree == column:
        return tree == column
    cast = "dtype" in tree and tree.get("expr") == column
    null = tree.get("function") in NULL_TESTS and tree["input"] == [column]
    return not cast and not null and any(_reads(child, column) for child in tree.values())


def check_columns(rules: Sequence[Rule], found: Collection[str]) -> None:
    """Raises RecipeError where a filter names a column that is none of ours, no score, and in no data."""
    known = KNOWN | set(found)
    for rule in rules:
        for name in sorted(set(parse(rule).meta.root_names()) - known):
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise RecipeError(
                f"{rule.place}: there is no column {name!r} in any sample; {hint}beside the fields of the "
                f"data that are single values there are: {', '.join(sorted(known))}"
            )


def dropped_by(task: FilterTask, before: NDArray[np.int16]) -> NDArray[np.int16]:
    """For every line of the partition the number of the first rule that drops it, or NO_FILTER: int16 [n].

    Args:
        before: The same, as the rules before these left it.
    """
    table = _table(task)
    first = before.copy()
    for number, rule in enumerate(task.rules, task.first):
        if rule.applies_to(task.source):
            first[(first == NO_FILTER) & ~_holds(table, rule, task.source)] = number
    return first


def numbers(task: FilterTask) -> NDArray[np.float64]:
    """What the expression of the task's one rule is for every line: float64 [n], NaN where it is missing."""
    (rule,) = task.rules
    column = _column(_table(task), rule)
    if not column.dtype.is_numeric():
        raise RecipeError(f"{rule.place}: {rule.expression!r} is {column.dtype}, not a number to be the best by")
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def group_names(task: FilterTask) -> pl.Series:
    """What the expression of the task's one rule is for every line, as text: String [n], null where it is missing."""
    (rule,) = task.rules
    column = _column(_table(task), rule)
    return column.list.join(",") if column.dtype == pl.List(pl.String) else column.cast(pl.String)


def threshold(found: NDArray[np.float64], top: float) -> float:
    """The value that the best `top` of them reach: the int(n · top)-th from the largest, counted from 0.

    The definition of DataComp (get_threshold in baselines/apply_filter.py): one sample more than the share, and
    ties, are kept. All are where that place lies past the end.
    """
    place = int(len(found) * top)
    if place >= len(found):
        return -np.inf
    return float(np.partition(found, len(found) - 1 - place)[len(found) - 1 - place])


def _table(task: FilterTask) -> pl.DataFrame:
    asked = named_by(task.rules, task.source)
    table = pl.read_parquet(task.samples, columns=[name for name in FILTER_COLUMNS if name in asked] or ["key"])
    for path in map(seals.checked, task.columns):
        wanted = [name for name in pl.read_parquet_schema(path) if name in asked]
        if wanted:
            table = table.hstack(pl.read_parquet(path, columns=wanted))
    table = table.cast({name: kind for name, kind in task.kinds.items() if name in table.columns})
    table = table.with_columns(cs.float().fill_nan(None))
    return table.with_columns(source=pl.lit(task.source), kind=pl.lit(task.kind))


def _holds(table: pl.DataFrame, rule: Rule, source: str) -> NDArray[np.bool_]:
    column = _column(table, rule)
    if rule.top is not None:
        column = column.fill_nan(None) if column.dtype.is_float() else column
        column = column.cast(pl.Float64) >= rule.thresholds[source]
    if column.dtype != pl.Boolean:
        raise RecipeError(f"{rule.place}: {rule.expression!r} is {column.dtype}, not true or false")
    return column.fill_null(rule.missing == "keep").to_numpy()


def _column(table: pl.DataFrame, rule: Rule) -> pl.Series:
    try:
        # with_columns, so that a constant holds or fails for every line.
        column = table.with_columns(__held=_compared(table, rule, parse(rule)))["__held"]
    except pl.exceptions.PolarsError as error:
        raise RecipeError(f"{rule.place}: {rule.expression!r} cannot be evaluated: {error}") from error
    return column.fill_nan(None) if column.dtype.is_float() else column


def _compared(table: pl.DataFrame, rule: Rule, expression: pl.Expr) -> pl.Expr:
    """The expression with a NaN on either side of a comparison as null.

    Raises RecipeError where a comparison is of text, or of a time, with a number.
    """
    tree = json.loads(expression.meta.serialize(format="json"))
    changed = False
    for holder, names in _comparisons(tree):
        sides = [_from_json(holder[name]) for name in names]
        kinds = [_dtype(table, side) for side in sides]
        _check_kinds(table, rule, sides, kinds)
        for name, side, kind in zip(names, sides, kinds, strict=True):
            if kind is not None and kind.is_float() and not side.meta.is_column():
                holder[name] = json.loads(side.fill_nan(None).meta.serialize(format="json"))
                changed = True
    return _from_json(tree) if changed else expression


def _comparisons(tree: Any) -> Iterator[tuple[Any, tuple[Any, Any]]]:
    """What holds the two sides of every comparison of a serialised expression, and their keys; inner ones first."""
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _comparisons(child)
    if isinstance(tree, dict):
        if tree.get("op") in COMPARISONS:
            yield tree, ("left", "right")
        elif any(tree.get("function") == {"Sql": {"Binary": op}} for op in COMPARISONS):
            yield tree["input"], (0, 1)


def _from_json(tree: Any) -> pl.Expr:
    return pl.Expr.deserialize(io.StringIO(json.dumps(tree)), format="json")


def _dtype(table: pl.DataFrame, expression: pl.Expr) -> pl.DataType | None:
    try:
        return table.head(0).select(expression).dtypes[0]
    except pl.exceptions.PolarsError:
        return None  # evaluating the whole says what is wrong with it


def _check_kinds(
    table: pl.DataFrame, rule: Rule, sides: Sequence[pl.Expr], kinds: Sequence[pl.DataType | None]
) -> None:
    """Raises RecipeError naming the columns of the side that is no number, where the other is one."""
    for side, kind, other in zip(sides, kinds, reversed(kinds), strict=True):
        if kind is None or other is None or not other.is_numeric() or not (kind == pl.String or kind.is_temporal()):
            continue
        said = "; ".join(_kinds_of(table[name]) for name in side.meta.root_names()) or f"a constant is {kind}"
        remedy = "Write `try_cast(COLUMN as double)` for the column" if kind == pl.String else "Write a time"
        raise RecipeError(
            f"{rule.place}: {rule.expression!r} compares {'text' if kind == pl.String else 'a time'} with a number: "
            f"{said}, in source {table.item(0, 'source') if len(table) else '?'}. {remedy}"
        )


def _kinds_of(column: pl.Series) -> str:
    """A column's type, and of text how much of it reads as numbers."""
    there = len(column) - column.null_count()
    if column.dtype != pl.String:
        return f"{column.name} is {column.dtype} ({there:,} values)"
    read = len(column) - column.cast(pl.Float64, strict=False).null_count()
    return f"{column.name} is text ({read:,} values read as numbers, {there - read:,} do not)"
