"""The samples as columns: the numbers that histograms are of, those that filters compare, and who left for what.

Sample ids are hashes, so that those below a bound are a random share of all, and the same in every report.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from mindvl_data.inspect.report.sets import Subject
from mindvl_data.tables.schema import SAMPLES_INDEX

MOST_SAMPLES = 1_000_000
MEASURES = {
    "pixels": "pixels",
    "aspect": "aspect (long side over short)",
    "num_images": "images",
    "num_turns": "turns",
    "text_chars": "characters of text",
}
KEPT = "kept"
COMPARISONS = frozenset({"Gt", "GtEq", "Lt", "LtEq"})
TOP = re.compile(r" >= (\S+), its top ")
HORIZONTAL = {"MinHorizontal": "least", "MaxHorizontal": "greatest"}


@dataclass(frozen=True)
class Table:
    """One samples table of the build, and the files of columns that lie beside it."""

    source: str
    file: str
    samples: Path
    beside: tuple[Path, ...]


@dataclass(frozen=True)
class Threshold:
    """Where a filter draws its line: the label of what it compares, as an expression, and the value."""

    rule: str
    label: str
    expression: pl.Expr
    value: float
    source: str | None = None


def tables(build: Path, index: str = SAMPLES_INDEX) -> list[Table]:
    """The samples tables that the last build used; none of evaluation sets where the build is older than their list."""
    found = []
    path = build / "samples" / index
    for line in json.loads(path.read_text()) if path.is_file() else []:
        samples = build / "samples" / line["samples"]
        fields = samples.with_suffix(".columns.parquet")
        scores = tuple(build / "scores" / name for name in line.get("scores", ()))
        found.append(Table(line["source"], line["file"], samples, (*((fields,) if fields.exists() else ()), *scores)))
    return found


def ledger(build: Path) -> pl.LazyFrame:
    """The whole drop ledger, with the set of those lines that one set alone has in `set`."""
    frames = [
        pl.scan_parquet(path).with_columns(
            pl.col("sample_id").cast(pl.Binary), set=pl.lit(path.stem.partition("fit-")[2])
        )
        for path in sorted((build / "ledger").glob("*.parquet"))
    ]
    # What of a filter's detail comes before its expression is its name.
    rule = pl.concat_str(pl.lit("filtered: "), pl.col("detail").str.split(": ").list.first())
    state = pl.when(pl.col("reason") == "filtered").then(rule).otherwise("reason")
    with_set = pl.when(pl.col("set") == "").then(state).otherwise(pl.concat_str(state, pl.lit(" in "), "set"))
    return pl.concat(frames).with_columns(state=with_set)


def thresholds(subject: Subject, drops: pl.DataFrame) -> list[Threshold]:
    """What the filters compare with a constant: those that the recipe writes out, and those that the ledger names."""
    found = []
    for one in subject.recipe.get("filters", []):
        if one.get("where"):
            found += list(_compared(one.get("name", ""), one["where"]))
    named = drops.filter(pl.col("reason") == "filtered").select("source", "detail").unique().sort("source", "detail")
    written = {one.get("name") for one in subject.recipe.get("filters", []) if one.get("where")}
    for source, detail in named.iter_rows():
        rule, _, expression = detail.partition(": ")
        if top := TOP.search(detail):
            label, parsed = _labelled(expression[: expression.index(" >= ")])
            found.append(Threshold(rule, label, parsed, float(top[1]), source))
        elif rule not in written:
            # The rules of a preset: its own name, then the condition's.
            found += list(_compared(rule, expression.rpartition(": ")[2]))
    return list({(t.rule, t.label, t.value, t.source): t for t in found}.values())


def _compared(rule: str, expression: str) -> Iterator[Threshold]:
    try:
        tree = json.loads(pl.sql_expr(expression).meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError):
        return
    for left, right in _comparisons(tree):
        for side, other in ((left, right), (right, left)):
            if side.meta.root_names() and not other.meta.root_names():
                value = pl.select(other.cast(pl.Float64, strict=False)).item()
                if value is not None:
                    yield Threshold(rule, label_of(side), side, value)


def _comparisons(node: Any) -> Iterator[tuple[pl.Expr, pl.Expr]]:
    """Every `a < b` in an expression's tree, which Polars gives as JSON."""
    if isinstance(node, list):
        for child in node:
            yield from _comparisons(child)
    if not isinstance(node, dict):
        return
    binary, called = node.get("BinaryExpr"), node.get("Function")
    if binary and binary["op"] in COMPARISONS:
        yield _expression(binary["left"]), _expression(binary["right"])
    elif called and _sql_operator(called["function"]) in COMPARISONS:
        left, right = called["input"]
        yield _expression(left), _expression(right)
    else:
        yield from _comparisons(list(node.values()))


def _sql_operator(function: Any) -> str:
    sql = function.get("Sql") if isinstance(function, dict) else None
    return str(sql.get("Binary", "")) if isinstance(sql, dict) else ""


def _expression(node: Any) -> pl.Expr:
    return pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")


def _labelled(expression: str) -> tuple[str, pl.Expr]:
    parsed = pl.sql_expr(expression)
    return label_of(parsed), parsed


def label_of(expression: pl.Expr) -> str:
    """An expression as a person would write it: a column by its name alone."""
    tree = json.loads(expression.meta.serialize(format="json"))
    called = tree.get("Function")
    if called and called["function"] in HORIZONTAL and all("Column" in one for one in called["input"]):
        return f"{HORIZONTAL[called['function']]}({', '.join(one['Column'] for one in called['input'])})"
    return str(tree["Column"]) if "Column" in tree else re.sub(r'col\("([^"]*)"\)', r"\1", str(expression))


def share_of(found: Sequence[Table]) -> float:
    """Which share of the samples is looked at: all of them, up to a million."""
    rows = sum(pq.read_metadata(table.samples).num_rows for table in found)
    return float(min(1.0, MOST_SAMPLES / max(1, rows)))


def below(share: float) -> pl.Expr:
    """Whether a sample is of that random share."""
    if share >= 1:
        return pl.lit(True)
    return pl.col("sample_id") < pl.lit(int(share * 2**64).to_bytes(8, "big"))


def read_lines(
    found: Sequence[Table], share: float, drops: pl.DataFrame, lengths: pl.DataFrame, compared: Sequence[Threshold]
) -> pl.DataFrame:
    """One line a sample: sample_id, source, table, `tokens`, the MEASURES, what filters compare, and `state`.

    Args:
        drops: The ledger.
        lengths: sample_id and tokens of what was drawn.
    """
    expressions = {t.label: t.expression for t in compared if t.label not in MEASURES}
    frames = [_lines(number, table, share, expressions) for number, table in enumerate(found)]
    states = drops.select("sample_id", "state", "set").sort("set").unique("sample_id", keep="first")
    together = pl.concat(frames, how="diagonal").join(lengths, "sample_id", how="left")
    joined = together.join(states.select("sample_id", "state"), "sample_id", how="left")
    return joined.with_columns(pl.col("state").fill_null(KEPT)).sort("sample_id")


def _lines(number: int, table: Table, share: float, expressions: Mapping[str, pl.Expr]) -> pl.DataFrame:
    ours = set(pq.read_schema(table.samples).names)
    names = {name for one in expressions.values() for name in one.meta.root_names()}
    frame = pl.read_parquet(table.samples, columns=["sample_id", *sorted({*MEASURES, *(names & ours)})])
    for path in table.beside:
        wanted = [name for name in pq.read_schema(path).names if name in names and name not in frame.columns]
        if wanted:
            frame = frame.hstack(pl.read_parquet(path, columns=wanted))
    there = {
        label: one.cast(pl.Float64, strict=False)
        for label, one in expressions.items()
        if set(one.meta.root_names()) <= set(frame.columns)
    }
    frame = frame.with_columns(pl.col("sample_id").cast(pl.Binary)).filter(below(share))
    numbers = [pl.col(name).cast(pl.Float64) for name in MEASURES]
    return frame.select(
        "sample_id",
        *numbers,
        *(one.alias(label) for label, one in there.items()),
        source=pl.lit(table.source),
        table=pl.lit(number, pl.Int64),
    )


def drawn_lengths(subject: Subject, share: float) -> pl.DataFrame:
    """Tokens of every sample that some set draws: the longest of its draws (sample_id, tokens)."""
    frames = []
    for name, manifest in subject.manifests.items():
        brought = subject.build is not None and manifest.store is not None
        folder = subject.build / name if brought and subject.build else manifest.path.parent
        path = folder / manifest.data["draws"]["path"]
        if path.is_file():
            frames.append(
                pl.scan_parquet(path).select(
                    pl.col("sample_id").cast(pl.Binary), tokens=(pl.col("stop") - pl.col("start")).cast(pl.Float64)
                )
            )
    if not frames:
        return pl.DataFrame(schema={"sample_id": pl.Binary, "tokens": pl.Float64})
    longest = pl.concat(frames).filter(below(share)).group_by("sample_id").agg(pl.col("tokens").max())
    return longest.collect()
