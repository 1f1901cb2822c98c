"""What becomes of a YAML once it is read: `--set` changes it, and `${VAR}` is taken from the environment."""

from __future__ import annotations

import os
from typing import Any

from mindvl_data.errors import UserError
from mindvl_data.expanded import VARIABLE, expand
from mindvl_data.runtime import yaml_text


class OverrideError(UserError):
    """A `--set` that cannot be followed; the message says which and why."""


def override(data: dict[str, Any], text: str) -> None:
    """Set a key by `path.to.key=value`; an item of a list is named by its number, a mapping that is missing is made.

    Raises:
        OverrideError: It is written otherwise, leads through a value or past a list, or the value is not YAML.
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise OverrideError(f"--set {text}: expected path.to.key=value")
    *parents, last = path.split(".")
    node: Any = data
    for key in parents:
        node = _item(node, key, text)
        if not isinstance(node, dict | list):
            raise OverrideError(f"--set {text}: {key!r} is a value, not a mapping")
    try:
        parsed = yaml_text.parse(value)
    except yaml_text.YamlError as error:
        raise OverrideError(f"--set {text}: the value is not YAML: {error}") from error
    if isinstance(node, dict):
        node[last] = parsed
    else:
        _item(node, last, text)
        node[int(last)] = parsed


def _item(node: Any, key: str, text: str) -> Any:
    """What a mapping has under a key, or a list at a number. Raises OverrideError where a list has no such item."""
    try:
        return node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
    except (IndexError, ValueError) as error:
        raise OverrideError(f"--set {text}: there is no item {key!r} in a list of {len(node)}") from error


def resolve(node: Any, path: str = "") -> tuple[Any, list[str]]:
    """The tree with `${VAR}` in its strings replaced from the environment, and a problem for each that is not set."""
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        found = {key: resolve(value, f"{path}.{key}".lstrip(".")) for key, value in items}
        problems = [problem for _, below in found.values() for problem in below]
        values = {key: value for key, (value, _) in found.items()}
        return values if isinstance(node, dict) else list(values.values()), problems
    if not isinstance(node, str):
        return node, []
    unset = [name for name in VARIABLE.findall(node) if name not in os.environ]
    return expand(node), [f"{path}: the environment variable {name} is not set" for name in unset]
