"""What a step's output is stored under: the hash of its inputs, its part of the recipe and its code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def key(*parts: Any) -> str:
    """16 hexadecimal digits for anything that JSON can write."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def of_file(path: Path) -> str:
    """A hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def of_tree(path: Path) -> str:
    """A hash of a file's content, or of those of all files below a folder, with their names."""
    if path.is_file():
        return of_file(path)
    return key([(str(file.relative_to(path)), of_file(file)) for file in sorted(path.rglob("*")) if file.is_file()])


def of_bytes(data: bytes) -> str:
    """16 hexadecimal digits for a mask or any other bytes."""
    return hashlib.sha256(data).hexdigest()[:16]
