"""A run's YAML, with what the command line changes of it, as a validated configuration.

An unknown key names its YAML path and the nearest known key. `${VAR}` is taken from the environment; the run's record
keeps it unresolved, so that what is secret stays out of the run's folder.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from mindvl_data.runtime import settings, yaml_text
from mindvl_train.config.schema import STAGE_KINDS, ConfigError, TrainConfig

AnyModel = TypeVar("AnyModel", bound=BaseModel)


@dataclass(frozen=True)
class LoadedConfig:
    """A configuration, and as `record` what the run's folder keeps of it: `${VAR}` unresolved."""

    config: TrainConfig
    record: dict[str, Any]


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Reads the YAML at `path` and applies `--set` overrides of the form `path.to.key=value`.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown or a value does not fit.
    """
    raw = _read_yaml(path)
    try:
        for override in overrides:
            settings.override(raw, override)
    except settings.OverrideError as error:
        raise ConfigError(str(error)) from error
    resolved, problems = settings.resolve(raw)
    if problems:
        raise ConfigError("\n".join(f"{problem}; export it or write the value" for problem in problems))
    config = validate(TrainConfig, resolved, str(path))
    record = _keep_unresolved(config.model_dump(mode="json", by_alias=True), raw)
    return LoadedConfig(config, record)


def validate(model: type[AnyModel], data: Any, where: str, prefix: str = "") -> AnyModel:
    """`data` as `model`.

    Args:
        model: the pydantic model to build.
        data: what the YAML holds at `prefix`.
        where: the file, for messages.
        prefix: YAML path of `data`, for messages, ending in a dot unless empty.

    Raises:
        ConfigError: lists every problem with its YAML path.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = [_problem(model, prefix, dict(each)) for each in error.errors()]
        raise ConfigError("\n".join(f"{where}: {problem}" for problem in problems)) from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml_text.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a run's YAML") from error
    except (yaml_text.YamlError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds no mapping; a run's YAML begins with `name:`, `model:` and `stages:`")
    return data


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _keep_unresolved(record: Any, raw: Any) -> Any:
    """`record` with the strings of `raw` that refer to a variable put back."""
    if isinstance(record, dict) and isinstance(raw, Mapping):
        return {key: _keep_unresolved(value, raw.get(key)) for key, value in record.items()}
    if isinstance(record, list) and isinstance(raw, list):
        return [_keep_unresolved(value, given) for value, given in zip(record, raw, strict=True)]
    return raw if _refers(raw) else record


def _problem(model: type[BaseModel], prefix: str, error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    dotted = prefix + ".".join(part for part in path if part not in STAGE_KINDS)
    if error["type"] != "extra_forbidden":
        return f"{dotted.rstrip('.')}: {error['msg'].removeprefix('Value error, ')}"
    known = _known_keys(model, path[:-1])
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Known keys: " if near else "known keys: "
    return f"{dotted}: unknown key; {hint}{', '.join(known)}"


def _known_keys(model: type[BaseModel], path: list[str]) -> list[str]:
    """The keys of the model that lies at `path` below `model`."""
    annotation: Any = model
    for key in path:
        if key in STAGE_KINDS:
            annotation = STAGE_KINDS[key]
            continue
        is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        # Below a model lies one of its fields, below a mapping what it holds.
        annotation = annotation.model_fields[key].annotation if is_model else get_args(annotation)[-1]
    return [field.alias or name for name, field in annotation.model_fields.items()]
