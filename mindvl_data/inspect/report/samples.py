"""The samples that a report shows: a fixed random share of each source and each reason for a drop."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from mindvl_data.inspect.report.columns import KEPT, Table
from mindvl_data.inspect.report.pictures import Thumbnails
from mindvl_data.inspect.report.sets import Subject
from mindvl_data.inspect.report.shapes import rounded, shapes
from mindvl_data.tables.schema import BOXES, Part

SHOWN = 480
MOST_OF_A_GROUP = 40
LEAST_OF_A_GROUP = 4
TEXT = 700
PICTURES = 4
LIKE = re.compile(r"^like ([0-9a-f]{32})")
FACTS = ("key", "uid", "num_turns", "text_chars", "num_images", "pixels", "images", "parts")


def chosen(lines: pl.DataFrame, unread: pl.DataFrame) -> pl.DataFrame:
    """Up to SHOWN samples, as many of every (source, state): sample_id, source, table, tokens, state.

    Those of the smallest ids, which are hashes.

    Args:
        lines: See `columns.read_lines`.
        unread: The ledger's lines of samples that no table has.
    """
    wanted = ["sample_id", "source", "table", "tokens", "state"]
    both = pl.concat([lines.select(wanted), unread.select("sample_id", "source", "state")], how="diagonal")
    groups = both.select("source", "state").n_unique()
    each = max(LEAST_OF_A_GROUP, min(MOST_OF_A_GROUP, SHOWN // max(1, groups)))
    ranked = both.sort("sample_id").with_columns(rank=pl.int_range(pl.len()).over("source", "state"))
    # The first of every group first: where the room for thumbnails ends, every group has some.
    return ranked.filter(pl.col("rank") < each).sort("rank", "source", "state").head(2 * SHOWN).drop("rank")


def described(
    subject: Subject, tables: Sequence[Table], picked: pl.DataFrame, drops: pl.DataFrame, thumbnails: Thumbnails
) -> list[dict[str, Any]]:
    """The samples as the page shows them, each with its pictures, its text and, of a duplicate, the one that stayed.

    Args:
        tables: Of the sources, then of the evaluations.
        drops: The ledger.
    """
    reasons = {line["sample_id"]: line for line in _of(drops, picked["sample_id"]).iter_rows(named=True)}
    likes = {uid: bytes.fromhex(found[1]) for uid, line in reasons.items() if (found := LIKE.match(line["detail"]))}
    rows = _rows(tables, {*picked["sample_id"], *likes.values()})
    made = []
    for line in picked.iter_rows(named=True):
        uid = line["sample_id"]
        sample = _sample(subject, line, reasons.get(uid), rows.get(uid), thumbnails)
        if uid in likes and likes[uid] in rows:
            other = rows[likes[uid]]
            sample["like"] = {"id": likes[uid].hex(), "source": other["source"], **_content(other, None, thumbnails)}
        made.append(sample)
    return made


def _of(drops: pl.DataFrame, ids: pl.Series) -> pl.DataFrame:
    first = drops.filter(pl.col("sample_id").is_in(ids.implode())).sort("set")
    return first.unique("sample_id", keep="first", maintain_order=True)


def _sample(
    subject: Subject,
    line: Mapping[str, Any],
    reason: Mapping[str, Any] | None,
    row: Mapping[str, Any] | None,
    thumbnails: Thumbnails,
) -> dict[str, Any]:
    sample = {
        "id": line["sample_id"].hex(),
        "source": line["source"],
        "kind": subject.kind(line["source"]),
        "state": line["state"],
        "tokens": None if line["tokens"] is None else int(line["tokens"]),
    }
    if reason is not None:
        sample |= {"why": reason["detail"], "place": reason["locator"]}
    if row is not None:
        sample |= {"place": f"{row['file']}#{row['key']}", "scores": row["scores"]}
        sample |= {name: row[name] for name in ("num_turns", "text_chars", "num_images", "pixels")}
        sample |= _content(row, subject.boxes(line["source"]), thumbnails)
    return sample


def _content(row: Mapping[str, Any], boxes: Mapping[str, Any] | None, thumbnails: Thumbnails) -> dict[str, Any]:
    found = [thumbnails.of_range(image["uri"], image["offset"], image["size"]) for image in row["images"][:PICTURES]]
    pictures: list[dict[str, Any]] = [
        {"number": number, "size": f"{image['width']} × {image['height']} {image['format']}"}
        for number, image in zip(found, row["images"], strict=False)
        if number is not None
    ]
    if boxes:
        sizes = [(image["width"], image["height"]) for image in row["images"]]
        for shape in shapes([Part(**part) for part in row["parts"]], sizes, boxes, row["objects"]):
            if shape.picture < len(pictures) == len(found):
                pictures[shape.picture].setdefault("shapes", []).append([shape.kind, rounded(shape)])
    return {"pictures": pictures, "turns": turns(row["parts"])}


def turns(parts: Sequence[Mapping[str, Any]], most: int = TEXT) -> list[list[str]]:
    """(role, text) of every turn, cut after `most` characters; the place of an image is said."""
    made: list[list[str]] = []
    last = None
    for part in parts:
        if most <= 0:
            break
        if part["turn"] != last:
            made.append([part["role"], ""])
            last = part["turn"]
        if part["text"] is None:
            made[-1][1] += "[image]"
            continue
        said = part["text"][:most] + ("…" if len(part["text"]) > most else "")
        made[-1][1] += f"[{part['field']}: {said}] " if part.get("field") else said
        most -= len(part["text"])
    return made


def _rows(tables: Sequence[Table], ids: Collection[bytes]) -> dict[bytes, dict[str, Any]]:
    """What the samples tables hold of these samples, with their scores and fields."""
    wanted, found = pl.Series(sorted(ids), dtype=pl.Binary), {}
    for table in tables:
        own = pl.read_parquet(table.samples, columns=["sample_id"]).with_columns(pl.col("sample_id").cast(pl.Binary))
        numbers = own.with_row_index().filter(pl.col("sample_id").is_in(wanted.implode()))
        if not len(numbers):
            continue
        rows = pl.scan_parquet(table.samples).select("sample_id", *FACTS).with_row_index()
        rows = rows.filter(pl.col("index").is_in(numbers["index"].implode()))
        beside = _beside(table, numbers["index"])
        for line, scores in zip(rows.collect().iter_rows(named=True), beside, strict=True):
            objects = scores.pop(BOXES, None)
            facts = {"file": table.file, "source": table.source, "scores": scores, "objects": objects}
            found[bytes(line["sample_id"])] = {**line, **facts}
    return found


def _beside(table: Table, rows: pl.Series) -> list[dict[str, Any]]:
    """The scores and fields of these rows that are single values, as what JSON can hold."""
    made: list[dict[str, Any]] = [{} for _ in rows]
    for path in table.beside:
        flat = [name for name, kind in zip(*_columns(path), strict=True) if kind]
        if flat:
            frame = pl.read_parquet(path, columns=flat)[rows.to_list()]
            for one, line in zip(made, frame.iter_rows(named=True), strict=True):
                one |= {n: value if n == BOXES else _plain(value) for n, value in line.items() if value is not None}
    return made


def _columns(path: Any) -> tuple[list[str], list[bool]]:
    schema = pq.read_schema(path)
    return schema.names, [
        not str(kind).startswith(("list", "struct", "binary", "fixed", "large_b")) for kind in schema.types
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if value == value and abs(value) != float("inf") else str(value)
    return value if isinstance(value, int | bool) else str(value)[:200]


def unread(drops: pl.DataFrame, lines: pl.DataFrame) -> pl.DataFrame:
    """The ledger's samples that no table has, which the scan could not read."""
    return drops.join(lines.select("sample_id"), "sample_id", how="anti").unique("sample_id", keep="first")


def states(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """The states that are shown, `kept` first."""
    found = {sample["state"] for sample in samples}
    return [*([KEPT] if KEPT in found else []), *sorted(found - {KEPT})]
