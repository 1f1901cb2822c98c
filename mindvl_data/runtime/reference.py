"""The keys of a YAML file as tables for people, from the JSON Schema of the models that check it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def tables(schema: Mapping[str, Any], head: str) -> str:
    """Every section with its keys, their kind and default, in Markdown.

    Args:
        schema: As pydantic makes it, its sections under `$defs`.
        head: The title, and what the page says before its tables.
    """
    sections = {"": schema, **schema["$defs"]}
    return "\n".join([head, *(line for name, each in sections.items() for line in _section(name, each))])


def _section(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## {name or 'The file'}\n"
    if said := schema.get("description"):
        yield f"{said}\n"
    yield "| key | kind | default | |"
    yield "|---|---|---|---|"
    required = schema.get("required", ())
    for key, each in schema.get("properties", {}).items():
        default = "required" if key in required else _code(each.get("default"))
        said = " ".join(str(each.get("description", "")).split())
        yield f"| `{key}` | {_kind(each)} | {default} | {said} |".replace("|  |", "| |")


def _kind(schema: Mapping[str, Any]) -> str:
    """A key's kind in words; a section by its link."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_kind(one) for one in schema[several] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    match schema.get("type"):
        case "array":
            return "list" if "items" not in schema else f"list of {_kind(schema['items'])}"
        case "object":
            values = next(iter(schema.get("patternProperties", {}).values()), schema.get("additionalProperties"))
            return f"name: {_kind(values)}" if isinstance(values, Mapping) else "mapping"
        case kind:
            return _bounded(str(kind or "any"), schema)


def _bounded(kind: str, schema: Mapping[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = " ".join(f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)
    return f"{kind} {bounds}".strip()


def _code(value: Any) -> str:
    if isinstance(value, Mapping):
        return ""
    if isinstance(value, list):
        return f"`{value}`" if value else ""
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"
