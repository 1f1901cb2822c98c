"""What changed between two manifests, on one screen: recipe, sources, funnel, mixture, packing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

PARTS = ("tokenizer", "chat_template", "resolution", "sources", "funnel", "mixture", "packing", "order")


def changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[tuple[str, Any, Any]]]:
    """Per part of the manifest, the paths whose values differ: (path, in a, in b); None where it is not there."""
    parts = {"recipe": ("recipe", "engine_version", "stage", "seq_len"), **{name: (name,) for name in PARTS}}
    found = {}
    for part, keys in parts.items():
        left = {path: value for key in keys for path, value in _leaves(_keyed(a[key]), key)}
        right = {path: value for key in keys for path, value in _leaves(_keyed(b[key]), key)}
        paths = [*left, *(path for path in right if path not in left)]
        differing = [(p, left.get(p), right.get(p)) for p in paths if left.get(p) != right.get(p)]
        if differing:
            found[part] = differing
    return found


def recipe_changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The keys in which two recipes differ: (path, in a, in b); filters and their like go by their names."""
    left, right = ({path: value for path, value in _leaves(_by_name(one), "")} for one in (a, b))
    paths = [*left, *(path for path in right if path not in left)]
    return [(path.lstrip("."), left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]


def _by_name(value: Any) -> Any:
    """Filters and their like under their names, so that one more does not shift the rest."""
    if isinstance(value, list) and all(isinstance(one, Mapping) and one.get("name") for one in value):
        return {one["name"]: _without(one, "name") for one in value}
    return {key: _by_name(child) for key, child in value.items()} if isinstance(value, Mapping) else value


def view_recipes(a: Mapping[str, Any], b: Mapping[str, Any]) -> RenderableType:
    """The differences of two recipes for a person."""
    found = recipe_changes(a, b)
    return _table("recipe", found) if found else Text("The recipes say the same.", style="bold")


def _keyed(value: Any) -> Any:
    """The funnel's lines by step and source and the files by path, so that one more does not shift the rest."""
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        if "step" in value[0]:
            return {f"{v['step']} · {v['source']}": _without(v, "step", "source") for v in value}
        if "path" in value[0]:
            return {v["path"]: _without(v, "path") for v in value}
    if isinstance(value, Mapping):
        return {key: _keyed(child) for key, child in value.items()}
    return value


def _without(line: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in names}


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, child in node.items():
            yield from _leaves(child, f"{path}.{key}")
    elif isinstance(node, list):
        for number, child in enumerate(node):
            yield from _leaves(child, f"{path}.{number}")
    else:
        yield path, node


def view(a: Mapping[str, Any], b: Mapping[str, Any]) -> RenderableType:
    """The differences for a person."""
    if a["id"] == b["id"]:
        head = Text("The same data: their ids are equal.", style="bold")
    else:
        head = Text(f"Other data: id {a['id'][:12]} became {b['id'][:12]}.", style="bold")
    tables = [_table(part, lines) for part, lines in changes(a, b).items()]
    return Group(head, *tables) if tables else Group(head, Text("Nothing else differs."))


def _table(part: str, lines: list[tuple[str, Any, Any]]) -> Table:
    table = Table(title=part, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in ("what", "before", "after"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for path, before, after in lines:
        table.add_row(path.removeprefix(f"{part}."), _shown(before), _shown(after))
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
