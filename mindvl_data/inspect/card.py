"""The data card: what a manifest says, for a person to read. The same manifest gives the same card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml


def card(data: Mapping[str, Any]) -> str:
    """Markdown from a manifest: recipe, sources and licences, funnel, mixture, packing, hashes."""
    sections = (_head, _sources, _funnel, _mixture, _packing, _hashes, _recipe)
    return "\n".join(line for section in sections for line in (*section(data), ""))


def _head(data: Mapping[str, Any]) -> Iterable[str]:
    total, packing, tokenizer = data["mixture"]["total"], data["packing"], data["tokenizer"]
    yield f"# {data['recipe'].get('name', 'Packed set')}: {data['stage']}, {data['seq_len']:,} tokens a pack"
    yield ""
    yield (
        f"{packing['packs']:,} packs of {total['samples']:,} samples: {total['tokens']:,} tokens, of which "
        f"{total['vision_tokens']:,} are vision tokens and {total['loss_tokens']:,} are trained on."
    )
    template = data["chat_template"].get("name", "")
    yield f"Tokenizer `{tokenizer['name']}` ({tokenizer['vocab_size']:,} tokens), chat template `{template}`."


def _sources(data: Mapping[str, Any]) -> Iterable[str]:
    yield "## Sources"
    yield ""
    rows = []
    for name, source in data["sources"].items():
        files = source["files"]
        listed = isinstance(files, dict)
        count = files["count"] if listed else len(files)
        size = files["path"] if listed else f"{sum(file['bytes'] for file in files):,}"
        rows.append((name, source["format"], source["kind"], source["licence"] or "not stated", f"{count:,}", size))
    yield from _table(("source", "format", "kind", "licence", "files", "bytes"), rows)


def _funnel(data: Mapping[str, Any]) -> Iterable[str]:
    yield "## From the sources to the draw"
    yield ""
    rows = []
    for line in data["funnel"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in line["reasons"].items())
        rows.append((line["step"], line["source"], f"{line['in']:,}", f"{line['out']:,}", reasons))
    yield from _table(("step", "source", "in", "out", "dropped for"), rows)


def _mixture(data: Mapping[str, Any]) -> Iterable[str]:
    mixture = data["mixture"]
    yield "## Mixture"
    yield ""
    if budget := ", ".join(f"{_number(value)} {key}" for key, value in (mixture.get("budget") or {}).items()):
        yield f"Budget: {budget}."
        yield ""
    counts = ("samples", "tokens", "loss_tokens", "vision_tokens", "epochs")
    rows = []
    for name, line in mixture["sources"].items():
        shares = (line[side].get("share") for side in ("target", "actual"))
        rows.append((name, *("" if share is None else f"{share:.2%}" for share in shares), *_counts(line, counts)))
    names = (name.replace("_", " ") for name in counts)
    yield from _table(("source", "target share", "actual share", *names), rows)


def _counts(line: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_number(line["actual"].get(name)) for name in names]


def _packing(data: Mapping[str, Any]) -> Iterable[str]:
    packing, order = data["packing"], data["order"]
    yield "## Packing"
    yield ""
    yield (
        f"{packing['packs']:,} packs, at least {packing['minimum_packs']:,} are needed; {packing['fill']:.2%} full, "
        f"{packing['segments_per_pack']:g} samples a pack. No sample attends to another."
    )
    yield f"Order: {order['rule']}, steps of {order['step']:,} packs, seed {order['seed']}."
    if rule := order.get("curriculum"):
        falls, missing = ", falling" if rule["descending"] else "", f"{rule['missing']:,} draws have no value"
        yield f"Curriculum: by {rule['by']}{falls}, {rule['windows']:,} windows; {missing}."
    balance = packing["cost_balance"][order["rule"]]
    costs = ", ".join(f"{value:g} in {name}" for name, value in balance.items())
    yield f"The slowest pack of a step costs, relative to the step's average: {costs}."


def _hashes(data: Mapping[str, Any]) -> Iterable[str]:
    yield "## Hashes"
    yield ""
    rows = [
        ("content (id)", data["id"]),
        ("recipe", data["recipe_hash"]),
        ("tokenizer", data["tokenizer"]["sha256"]),
        ("chat template", data["chat_template"].get("sha256", "")),
        (data["draws"]["path"], data["draws"]["sha256"]),
        *((shard["path"], shard["sha256"]) for shard in data["shards"]),
    ]
    yield from _table(("of", "SHA-256"), [(name, f"`{digest}`") for name, digest in rows])
    yield ""
    yield f"Made by mindvl_data {data['engine_version']}, manifest format {data['format_version']}."


def _recipe(data: Mapping[str, Any]) -> Iterable[str]:
    yield "## Recipe"
    yield ""
    yield "```yaml"
    yield yaml.safe_dump(dict(data["recipe"]), sort_keys=False, allow_unicode=True, width=110).rstrip()
    yield "```"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: str) -> str:
    """Names and licences are the recipe's: they must not break the table."""
    return " ".join(str(value).replace("|", "\\|").split())


def _number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
