"""Configurations of models by name, as files that a person reads; `model: {name: vlm, preset: NAME}` takes one."""

import difflib
from importlib.resources import files
from typing import Any

from mindvl_data.errors import UserError
from mindvl_data.runtime import yaml_text


class PresetError(UserError):
    """A name that no preset has; says which there are."""


def names() -> list[str]:
    """Of all presets, sorted."""
    return sorted(path.name.removesuffix(".yaml") for path in files(__name__).iterdir() if path.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """A preset's configuration, as `model.config` of a run's YAML would hold it.

    Raises:
        PresetError: there is none of that name.
    """
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? Known: " if near else "known: "
        raise PresetError(f"model.preset: there is no {name!r}; {hint}{', '.join(known)}")
    config: dict[str, Any] = yaml_text.parse((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))
    return config
