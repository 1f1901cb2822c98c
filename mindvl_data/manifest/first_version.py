"""Manifests of format 1 in the words of today, so that no reader of a field knows more than one name for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def translated(data: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of format 1 with its mixture and packing as format 2 names them; what has another form stays."""
    found = dict(data)
    if isinstance(packing := data.get("packing"), Mapping):
        found["packing"] = _renamed(packing, lower_bound="minimum_packs", repeats_together="duplicates_in_pack")
    if isinstance(mixture := data.get("mixture"), Mapping):
        found["mixture"] = _mixture(mixture)
    return found


def _mixture(mixture: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(mixture)
    if "budget" not in found:
        asked = {key: found.pop(f"asked_{key}", None) for key in ("tokens", "epochs")}
        found["budget"] = {key: value for key, value in asked.items() if value is not None}
    if isinstance(sources := found.get("sources"), Mapping):
        found["sources"] = {name: _line(line) for name, line in sources.items()}
    if isinstance(groups := found.get("groups"), Mapping):
        found["groups"] = {name: _renamed(group, asked="target", achieved="actual") for name, group in groups.items()}
    return found


def _line(line: Any) -> Any:
    """A source's line; the earliest manifests kept counts beside the two shares."""
    if not isinstance(line, Mapping):
        return line
    found = _renamed(line, asked="target", achieved="actual", repeats="epochs")
    counts = {key: value for key, value in found.items() if key not in ("target", "actual", "pool")}
    if not isinstance(found.get("actual"), Mapping):
        return {"target": {"share": found.get("target")}, "actual": {"share": found.get("actual"), **counts}}
    sides = {side: _renamed(found.get(side), repeats="epochs") for side in ("target", "actual")}
    return {**found, **sides}


def _renamed(value: Any, **names: str) -> Any:
    return {names.get(key, key): item for key, item in value.items()} if isinstance(value, Mapping) else value
