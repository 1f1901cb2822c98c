"""The keys of a YAML file as tables for people, from the JSON Schema of the models that check it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from pydantic import BaseModel


def tables(schema: Mapping[str, Any], head: str) -> str:
    """Every section with its keys, their kind and default, in Markdown.

    Args:
        schema: As pydantic makes it, its sections under `$defs`.
        head: The title, and what the page says before its tables.
    """
    sections = {"": schema, **schema["$defs"]}
    return "\n".join([head, *(line for name, each in sections.items() for line in _section(name, each))])


def described(schema: dict[str, Any], models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The schema with what each key means: the docstring after it in its model, where the schema says nothing."""
    sections = {schema["title"]: schema, **schema["$defs"]}
    for model in models:
        properties = sections.get(model.__name__, {}).get("properties", {})
        texts = dict(_attribute_docstrings(model))
        for name, field in model.model_fields.items():
            key = field.alias or name
            if name in texts and "description" not in properties.get(key, {"description": ""}):
                properties[key] = dict(sorted({**properties[key], "description": texts[name]}.items()))
    return schema


def subclasses(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """All that inherit from it, directly or not."""
    for each in model.__subclasses__():
        yield each
        yield from subclasses(each)


def _attribute_docstrings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The fields of a model, those that it inherits first, with the text that stands after each."""
    for base in reversed([base for base in model.__mro__ if issubclass(base, BaseModel) and base is not BaseModel]):
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        for field, after in pairwise(getattr(node, "body", [])):
            match field, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    yield name, inspect.cleandoc(text)


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
