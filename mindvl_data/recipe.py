"""The recipe: YAML into frozen models. Every key is checked; an error names its YAML path."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from mindvl_data.errors import UserError

VARIABLE = re.compile(r"\$\{(\w+)\}")
CREDENTIALS = re.compile(r"://[^/]*@")


class RecipeError(UserError):
    """A recipe that cannot be built; the message names the YAML path and what to do."""


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


def _one_or_more(kind: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [kind, {"type": "array", "items": kind, "minItems": 1}]})


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), _one_or_more({"type": "string"})]
Length = Annotated[int, Field(ge=16, le=2**24)]
Lengths = Annotated[tuple[Length, ...], BeforeValidator(_as_tuple), _one_or_more({"type": "integer", "minimum": 16})]
# What becomes the name of a file or folder.
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
Share = Annotated[float, Field(gt=0, le=1)]


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Resolution(Model):
    """How an image becomes patches: the Qwen2-VL rule. Bounds are in pixels after the resize."""

    patch: int = Field(14, ge=1)
    merge: int = Field(2, ge=1)
    min_pixels: int = Field(3136, ge=1)
    max_pixels: int = Field(1003520, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Resolution:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


class PixelBounds(Model):
    """A stage's own pixel bounds; what is left out is the recipe's."""

    min_pixels: int | None = Field(None, ge=1)
    max_pixels: int | None = Field(None, ge=1)


class Source(Model):
    """Where samples come from and how their text is rendered."""

    format: str
    """The reader's name: webdataset, finevision, llava, messages, sharegpt, ..., or a plugin's."""
    path: Paths
    """Files, globs and brace ranges, relative to the recipe's folder, or a URL that fsspec knows."""
    kind: str
    """A label for grouping, for example caption or instruction."""
    render: Literal["chat", "caption", "plain"] | None = None
    """How turns become text; by default what the format says."""
    loss: Literal["answers", "all"] = "answers"
    """`all` trains on prompts too."""
    columns: dict[str, str] = {}
    """The data's names of fields, by the format's: `{caption: alt_text}`."""
    uids: str | None = None
    """A subset as DataComp publishes them, a sorted .npy of uids: only these, each as often as it is listed."""
    check: Literal["header", "decode"] = "header"
    """`decode` decodes every image while scanning and finds what a sound header hides, at the price of doing so."""
    invalid_utf8: Literal["drop", "replace"] = "drop"
    """What becomes of text that is not UTF-8; `replace` counts what it replaced in the column `replaced`."""
    images: str | None = None
    """The folder that image paths are relative to; by default the folder of the file that names them."""
    max_bad: float = Field(0.01, ge=0, le=1)
    """The share of unusable samples above which the build stops."""
    licence: str | None = None
    """Recorded in the manifest."""


class Filter(Model):
    """Keeps the samples for which a Polars SQL expression over the samples table holds."""

    name: str
    where: str
    sources: tuple[str, ...] | None = None
    """The sources it applies to; by default all."""
    missing: Literal["keep", "drop"] = "keep"
    """What becomes of a sample for which the expression is null, for example a width without images."""


class Holdout(Model):
    """A set kept out of every draw, chosen by a hash of the image content (the text where there is none)."""

    share: float = Field(gt=0, lt=1)
    seq_len: Length = 4096


class Limits(Model):
    """What one sample may be at most; more is a drop with its reason."""

    image_pixels: int = Field(178_956_970, ge=1, le=178_956_970)
    """Pixels of one image, by its header: the guard against decompression bombs."""
    images: int = Field(256, ge=0, le=32_767)
    text_chars: int = Field(2_000_000, ge=1, le=2**30)


class Budget(Model):
    """How much one stage draws: exactly one of its keys."""

    tokens: int | None = Field(None, ge=1)
    """Text, vision and template tokens, repeats included, padding not."""
    epochs: float | None = Field(None, gt=0)
    """The largest budget at which no source is passed more than this often at the asked shares."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Budget:
        if (self.tokens is None) == (self.epochs is None):
            raise ValueError("give exactly one of tokens and epochs")
        return self


class Order(Model):
    """The order in which packs are written and trained on."""

    rule: Literal["balanced", "shuffled"] = "balanced"
    """`balanced`: the packs of a step are alike in cost, so that no rank waits; `shuffled`: any pack anywhere."""
    step: int = Field(64, ge=1)
    """Packs a step: a multiple of the global batch that will be trained with."""


class Stage(Model):
    """One training stage: how much of what, at which sequence lengths."""

    seq_len: Lengths
    budget: Budget
    mixture: dict[str, Share]
    """Each source's share of the tokens; the shares sum to 1."""
    max_repeats: float = Field(4, gt=0, le=32767)
    """Passes over a source in this stage above which the build stops."""
    overlong: Literal["drop", "truncate", "error"] = "drop"
    fit: Literal["shortest", "each"] = "shortest"
    """Several lengths: one draw of what fits the shortest, or a draw for each."""
    max_patches: int | None = Field(None, ge=1)
    """The most patches (before the merge) of one pack; by default any number."""
    max_samples: int | None = Field(None, ge=1)
    """The most samples of one pack; by default any number."""
    window: int | None = Field(None, ge=1)
    """Draw each source in the order in which it lies, and pack this many samples at a time: reads are nearly
    sequential, at a small loss of fill. By default any sample may share a pack with any other."""
    resolution: PixelBounds = PixelBounds()

    @model_validator(mode="after")
    def _whole(self) -> Stage:
        total = sum(self.mixture.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the mixture sum to {total:g}, not to 1")
        if len(set(self.seq_len)) != len(self.seq_len):
            raise ValueError("a sequence length is given twice")
        return self


class Recipe(Model):
    """A whole recipe: sources in, packed stages out."""

    name: Name
    seed: int = Field(0, ge=0)
    tokenizer: str
    """A tokenizer.json relative to the recipe, a hub id, or `qwen` (extra [qwen])."""
    chat_template: str = "qwen2-vl"
    media: Literal["embed", "reference"] = "embed"
    """Whether shards hold the image bytes or say where they lie."""
    embed_limit: int = Field(50_000_000_000, ge=0)
    """Bytes of images above which a packed set is not embedded without this being raised."""
    resolution: Resolution = Resolution()
    limits: Limits = Limits()
    sources: dict[Name, Source] = Field(min_length=1)
    filters: tuple[Filter, ...] = ()
    holdout: Holdout | None = None
    stages: dict[Name, Stage] = Field(min_length=1)
    order: Order = Order()
    shard_bytes: int = Field(256 << 20, ge=1 << 10)
    max_bad: float = Field(0.01, ge=0, le=1)
    """The share of unusable samples over all sources above which the build stops."""

    @model_validator(mode="after")
    def _names_exist(self) -> Recipe:
        asked = [(f"stages.{stage}.mixture", name) for stage, s in self.stages.items() for name in s.mixture]
        asked += [(f"filters.{i}.sources", name) for i, f in enumerate(self.filters) for name in f.sources or ()]
        for place, name in asked:
            if name not in self.sources:
                raise ValueError(f"{place}: there is no source {name!r}{_nearest(name, self.sources)}")
        if len({f.name for f in self.filters}) != len(self.filters):
            raise ValueError("filters: two have the same name")
        if self.holdout and "holdout" in self.stages:
            raise ValueError("stages.holdout: the name is taken by the held-out set")
        for name, stage in self.stages.items():
            bounds = self.resolution.model_dump() | stage.resolution.model_dump(exclude_none=True)
            if bounds["min_pixels"] > bounds["max_pixels"]:
                raise ValueError(f"stages.{name}.resolution: min_pixels {bounds['min_pixels']} is above its max_pixels")
        return self

    @model_validator(mode="after")
    def _no_credentials(self) -> Recipe:
        for name, source in self.sources.items():
            if any(CREDENTIALS.search(place) for place in (*source.path, source.images or "")):
                raise ValueError(
                    f"sources.{name}: a URL with a user or password would be written into every manifest; "
                    "configure the store's own credentials instead"
                )
        return self


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, where it lies, and its text as written: `raw` keeps `${VAR}` unresolved, for the manifest."""

    recipe: Recipe
    raw: Mapping[str, Any]
    folder: Path

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.raw, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Read, override (`path.to.key=value`), resolve and validate a recipe. Raises RecipeError."""
    raw = _read_yaml(path)
    for override in overrides:
        _apply(raw, override)
    problems: list[str] = []
    resolved = _resolve(raw, "", problems)
    if not problems:
        try:
            return LoadedRecipe(Recipe.model_validate(resolved), raw, path.parent.resolve())
        except ValidationError as error:
            problems = [_explain(item, resolved) for item in error.errors()]
    raise RecipeError(f"{path}:\n" + "\n".join(f"  {problem}" for problem in problems))


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, for completion and checks in an editor."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML's own loader takes in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            line = node.start_mark.line + 1
            raise RecipeError(f"the key {twice[0]!r} is given twice in the mapping that begins on line {line}")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such recipe") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecipeError) as error:
        hint = "\n(a value with ${VAR} stands in quotes within {…})" if "${" in str(error) else ""
        raise RecipeError(f"{path}: not readable as YAML: {error}{hint}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys, this is {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    place, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write path.to.key=value")
    *parents, last = place.split(".")
    node: Any = raw
    try:
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node.setdefault(name, {})
            if not isinstance(node, (dict, list)):
                raise RecipeError(f"--set {override}: {name} is a value, not a mapping")
        node[int(last) if isinstance(node, list) else last] = yaml.safe_load(text)
    except (IndexError, ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override}: leads nowhere in the recipe, or is no YAML ({error})") from error


def _resolve(node: Any, place: str, problems: list[str]) -> Any:
    """`${VAR}` in every string replaced from the environment; names what is missing."""
    if isinstance(node, dict):
        return {key: _resolve(value, f"{place}.{key}".lstrip("."), problems) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolve(value, f"{place}.{i}", problems) for i, value in enumerate(node)]
    if not isinstance(node, str) or not VARIABLE.search(node):
        return node
    missing = [name for name in VARIABLE.findall(node) if name not in os.environ]
    problems += [f"{place}: the environment variable {name} is not set" for name in missing]
    return VARIABLE.sub(lambda match: os.environ.get(match[1], ""), node)


def _explain(error: Any, data: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg'].removeprefix('Value error, ')}".removeprefix(": ")
    return f"{place}: there is no such key{_nearest(str(error['loc'][-1]), _known_keys(error['loc'][:-1]))}"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, [str(key) for key in known], 1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(map(str, known))}"


def _known_keys(loc: Sequence[str | int]) -> list[str]:
    """The keys that the model at this place of the recipe has."""
    schema = Recipe.model_json_schema()
    node: Any = schema
    for part in loc:
        node = next(_steps(node, part, schema), None) or {}
    return sorted(key for model in _alternatives(node, schema) for key in model.get("properties", {}))


def _alternatives(node: Any, schema: Any) -> Iterator[Any]:
    for option in node.get("anyOf", [node]):
        option = schema["$defs"][option["$ref"].rsplit("/", 1)[1]] if "$ref" in option else option
        if option.get("type") in ("object", "array"):
            yield option


def _steps(node: Any, part: str | int, schema: Any) -> Iterator[Any]:
    for option in _alternatives(node, schema):
        if isinstance(part, int):
            yield option["items"]
        elif part in option.get("properties", {}):
            yield option["properties"][part]
        else:
            yield from option.get("patternProperties", {}).values()
