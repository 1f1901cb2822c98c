"""What is wrong with a recipe, in words: the YAML path, and the nearest key that exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mindvl_data.recipe.fields import nearest
from mindvl_data.recipe.whole import Recipe

# The section and the key of earlier recipes, and the key of today.
RENAMED = {("balance", "temperature"): "exponent", ("stages", "max_repeats"): "max_epochs"}


def problem(error: Any) -> str:
    """One line for one of pydantic's errors."""
    # The tag of an alternative stands in brackets: no part of the YAML path.
    loc = tuple(part for part in error["loc"] if not str(part).startswith("("))
    place = ".".join(str(part) for part in _without_kinds(loc))
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    if new := RENAMED.get((str(loc[0]), str(loc[-1]))):
        return f"{place}: is called {new} now"
    return f"{place}: there is no such key{nearest(str(loc[-1]), _known_keys(loc[:-1]))}"


def _without_kinds(loc: Sequence[str | int]) -> list[str | int]:
    """A place as YAML has it: pydantic puts the value of `by` into it, which chose among several models."""
    schema = Recipe.model_json_schema()
    node: Any = schema
    path = []
    for part in loc:
        if part not in node.get("discriminator", {}).get("mapping", {}):
            path.append(part)
        node = next(_steps(node, part, schema), None) or {}
    return path


def _known_keys(loc: Sequence[str | int]) -> list[str]:
    """The keys that the model at this place of the recipe has."""
    schema = Recipe.model_json_schema()
    node: Any = schema
    for part in loc:
        node = next(_steps(node, part, schema), None) or {}
    return sorted(key for model in _alternatives(node, schema) for key in model.get("properties", {}))


def _alternatives(node: Any, schema: Any) -> Iterator[Any]:
    for option in node.get("anyOf", node.get("oneOf", [node])):
        option = schema["$defs"][option["$ref"].rsplit("/", 1)[1]] if "$ref" in option else option
        if option.get("type") in ("object", "array"):
            yield option


def _steps(node: Any, part: str | int, schema: Any) -> Iterator[Any]:
    if part in node.get("discriminator", {}).get("mapping", {}):
        yield {"$ref": node["discriminator"]["mapping"][part]}
        return
    for option in _alternatives(node, schema):
        if isinstance(part, int):
            yield option.get("items")
        elif part in option.get("properties", {}):
            yield option["properties"][part]
        else:
            yield from option.get("patternProperties", {}).values()
            rest = option.get("additionalProperties")
            yield from [rest] if isinstance(rest, dict) else []
