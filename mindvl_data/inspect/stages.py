"""The table that a build, a plan and `show` share: one packed set a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

UNITS = (("T", 10**12), ("B", 10**9), ("M", 10**6))
# What the columns are: the line below each table.
FUNNEL = "samples into each step, out of it, and why the others left; explain tells the story of one"
MIXTURE = "target: the recipe's share · actual: what whole samples come to · epochs: how often a source is gone through"
SETS = "loss: tokens trained on · vision: pictures' tokens · minimum: no packing has fewer packs · fill: not padding"


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )


def _explained(table: Table, terms: str) -> RenderableType:
    return Group(table, Text(terms, style="dim"))


def overview(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> RenderableType:
    """One line a packed set: (name, manifest data)."""
    table = _table("Packed sets")
    table.add_column("set", no_wrap=True)
    for column in ("samples", "tokens", "loss", "vision", "packs", "minimum", "fill"):
        table.add_column(column, justify="right")
    for name, data in stages:
        table.add_row(name, *_numbers(data))
    return _explained(table, SETS)


def _numbers(data: Mapping[str, Any]) -> Iterator[str]:
    total, packing = data["mixture"]["total"], data["packing"]
    for name in ("samples", "tokens", "loss_tokens", "vision_tokens"):
        yield count(total[name])
    yield count(packing["packs"])
    yield count(packing["minimum_packs"])
    yield f"{packing['fill']:.2%}"


def count(number: int) -> str:
    """A number that fits a column: 9,999,999 in full, then 210.0B."""
    if number < 10_000_000:
        return f"{number:,}"
    unit, size = next((unit, size) for unit, size in UNITS if number >= size)
    return f"{number / size:,.1f}{unit}"


def mixtures(stages: Sequence[tuple[str, Mapping[str, Any]]]) -> RenderableType:
    """Target and actual shares of every source and group, and the epochs of each source."""
    table = _table("Mixture")
    for column in ("set", "by", "source"):
        table.add_column(column)
    for column in ("target", "actual", "samples", "tokens", "of tokens", "epochs"):
        table.add_column(column, justify="right")
    for name, data in stages:
        mixture = data["mixture"]
        head = (name, mixture["by"].replace("_", " "))
        for source, line in mixture["sources"].items():
            table.add_row(*head, source, *_shares(line["target"], line["actual"], mixture["total"]["tokens"]))
            head = ("", "")
        for group, line in mixture["groups"].items():
            table.add_row("", "", Text(group, style="italic"), f"{line['target']:.1%}", f"{line['actual']:.2%}")
        table.add_section()
    return _explained(table, MIXTURE)


def _shares(target: Mapping[str, Any], actual: Mapping[str, Any], tokens: int) -> tuple[str, ...]:
    return (
        f"{target['share']:.1%}",
        f"{actual['share']:.2%}",
        count(actual["samples"]),
        count(actual["tokens"]),
        f"{actual['tokens'] / tokens:.1%}",
        f"{actual['epochs']:.2f}",
    )


def funnel(lines: Sequence[Mapping[str, Any]], title: str = "Funnel") -> RenderableType:
    """How many samples went into each step and came out, and why the others left: where some did."""
    table = _table(title)
    for column in ("step", "source"):
        table.add_column(column)
    for column in ("in", "out"):
        table.add_column(column, justify="right")
    table.add_column("why")
    last = None
    for line in (line for line in lines if line["step"] == "scan" or line["in"] != line["out"]):
        if last not in (None, line["step"]):
            table.add_section()
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in line["reasons"].items())
        reasons += "".join(f"; {count:,} have a .{name}, not used" for name, count in line.get("unused", {}).items())
        step = line["step"] if line["step"] != last else ""
        table.add_row(step, line["source"], count(line["in"]), count(line["out"]), reasons)
        last = line["step"]
    return _explained(table, FUNNEL)


def manifest(data: Mapping[str, Any], path: str) -> RenderableType:
    """A whole manifest for a person."""
    name = f"{data['stage']}-{data['seq_len']}"
    facts = Table.grid(padding=(0, 2))
    tokenizer, order, resolution = data["tokenizer"], data["order"], data["resolution"]
    balance = data["packing"]["cost_balance"][order["rule"]]
    rows = {
        "manifest": path,
        "id": data["id"],
        "recipe": f"{data['recipe'].get('name')} ({data['recipe_hash'][:12]}), engine {data['engine_version']}",
        "tokenizer": f"{tokenizer['name']}, {tokenizer['vocab_size']:,} tokens ({tokenizer['sha256'][:12]})",
        "resolution": f"{resolution['min_pixels']:,} to {resolution['max_pixels']:,} pixels, "
        f"patch {resolution['patch']}, merge {resolution['merge']}",
        "order": f"{order['rule']}, steps of {order['step']}, seed {order['seed']}; slowest pack of a step: "
        f"{balance['attention']:.2f} × the average attention cost (Σ l²), {balance['patches']:.2f} × in patches",
        "shards": f"{len(data['shards'])}, {sum(s['bytes'] for s in data['shards']) / 1e6:,.1f} MB",
    }
    weights = {source: each["weight"] for source, each in data["sources"].items() if "weight" in each}
    if weights:
        rows["loss weights"] = ", ".join(f"{source} × {weight:g}" for source, weight in weights.items())
    if data.get("loss_weights"):
        rows["weights of turns"] = "in the packs (`loss_weight`)"
    for key, value in rows.items():
        facts.add_row(Text(key, style="bold"), Text(str(value)))
    stage = [(name, data)]
    return Group(facts, Text(), overview(stage), Text(), mixtures(stage), Text(), funnel(data["funnel"]))
