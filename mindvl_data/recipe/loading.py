"""From a YAML file to a recipe: overrides, `${VAR}`, and errors that name the YAML path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mindvl_data.expanded import VARIABLE
from mindvl_data.recipe.fields import Model, RecipeError
from mindvl_data.recipe.problems import problem
from mindvl_data.recipe.whole import Recipe
from mindvl_data.runtime import settings, yaml_text
from mindvl_data.runtime.reference import described, subclasses, tables


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, where it lies, and its text as written: `raw` keeps `${VAR}` unresolved, for the manifest."""

    recipe: Recipe
    raw: Mapping[str, Any]
    path: Path

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.raw, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def load_recipe(path: Path, overrides: Sequence[str] = (), reads_data: bool = True) -> LoadedRecipe:
    """Read, override, resolve and validate a recipe.

    Args:
        path: The recipe, a YAML file.
        overrides: Each as `path.to.key=value`.
        reads_data: Whether a `${VAR}` that is not set is an error; who only reckons with a recipe needs none of its
            files.

    Raises:
        RecipeError: It is none; the message lists every problem with its YAML path.
    """
    raw = read_yaml(path)
    try:
        for override in overrides:
            settings.override(raw, override)
    except settings.OverrideError as error:
        raise RecipeError(str(error)) from error
    resolved, problems = settings.resolve(raw)
    problems = problems if reads_data else []
    problems += _open_keys(raw, "")
    if not problems:
        try:
            return LoadedRecipe(Recipe.model_validate(resolved), raw, path.parent.resolve() / path.name)
        except ValidationError as error:
            problems = [problem(item) for item in error.errors()]
    raise RecipeError(f"{path}:\n" + "\n".join(f"  {line}" for line in problems))


def _open_keys(node: Any, place: str) -> list[str]:
    """Where a key to a service stands in the recipe itself: the manifest would publish it."""
    if isinstance(node, list):
        return [line for i, value in enumerate(node) for line in _open_keys(value, f"{place}{i}.")]
    if not isinstance(node, dict):
        return []
    return [
        line
        for key, value in node.items()
        for line in (
            [f"{place}api_key: stands in the recipe, which manifests hold; write ${{NAME}} and set NAME"]
            if key == "api_key" and value is not None and not VARIABLE.fullmatch(str(value))
            else _open_keys(value, f"{place}{key}.")
        )
    ]


REFERENCE = """# The keys of a recipe

Made by `python -m mindvl_data schema --reference`; the JSON Schema for an editor by `python -m mindvl_data schema`:
begin the file with `# yaml-language-server: $schema=recipe.schema.json`.
"""


def reference() -> str:
    """Every section with its keys, their kind and default, in Markdown."""
    return tables(json_schema(), REFERENCE)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for completion and checks in an editor."""
    schema = described(Recipe.model_json_schema(), [Recipe, *subclasses(Model)])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def read_yaml(path: Path) -> dict[str, Any]:
    """A recipe as it is written, `${VAR}` unresolved. Raises RecipeError where it is none."""
    try:
        raw = yaml_text.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except (yaml_text.YamlError, OSError, UnicodeDecodeError) as error:
        hint = "\n(a value with ${VAR} stands in quotes within {…})" if "${" in str(error) else ""
        raise RecipeError(f"{path}: not readable as YAML: {error}{hint}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, this is {type(raw).__name__}")
    return raw
