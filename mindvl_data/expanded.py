"""Variables of the environment: where `${VAR}` is replaced, and its value hidden again in whatever is shown or written.

What stands in a variable may be a key to a service. A service that is wrong echoes it, a library puts it into the
message of an error: so every message, log, ledger, answer and manifest passes `masked`, which puts the name back.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container
from typing import Any
from urllib.parse import quote

VARIABLE = re.compile(r"\$\{(\w+)\}")
# A shorter value is no secret, and hiding it would spoil every text that has the word (`${SPLIT}` is `train`).
LEAST_CHARS = 6
# Names alone, a process: their values stay in the environment. It is the one state that messages have in common.
_expanded: set[str] = set()


def expand(text: str, names: Container[str] | None = None) -> str:
    """`${VAR}` from the environment, of these names alone where some are given; nothing else is special."""

    def value(match: re.Match[str]) -> str:
        if names is not None and match[1] not in names:
            return match[0]
        _expanded.add(match[1])
        return os.environ.get(match[1], match[0])

    return VARIABLE.sub(value, text)


def masked(text: str) -> str:
    """`text` with each value that was expanded put back to `${VAR}`, also as URLs, JSON and Python write it."""
    if not _expanded:
        return text
    values = {name: os.environ.get(name, "") for name in _expanded}
    forms = {form: name for name, value in values.items() if len(value) >= LEAST_CHARS for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, f"${{{forms[form]}}}")
    return text


def _forms(value: str) -> set[str]:
    return {value, quote(value), quote(value, safe=""), repr(value)[1:-1], json.dumps(value)[1:-1]}


def masked_values(value: Any) -> Any:
    """The same of every text in mappings and lists, keys too."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked_values(key): masked_values(item) for key, item in value.items()}
    return [masked_values(item) for item in value] if isinstance(value, list | tuple) else value
