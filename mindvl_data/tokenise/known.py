"""What was found out about a tokenizer once, kept on this machine: to find it out again takes seconds.

A text lies under the hash of what it follows from and of the code that made it; nothing there is ever needed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mindvl_data import atomic
from mindvl_data.runtime import fingerprints, reached


def text(name: str, source: bytes, make: Callable[[], str]) -> str:
    """`make()`, or what it gave before for this source: a function of that alone. What is damaged is made again."""
    code = reached.code("mindvl_data.tokenise.tokeniser", "mindvl_data.qwen")
    path = _folder() / f"{name}-{fingerprints.of_bytes(source)}-{code}"
    with suppress(OSError, ValueError):
        digest, _, found = path.read_bytes().decode("utf-8", "surrogatepass").partition("\n")
        if _digest(found) == digest:
            return found
    made = make()
    with suppress(OSError):  # no home, or no space: it is made again the next time
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic.whole(path) as partial:
            partial.write_bytes(f"{_digest(made)}\n{made}".encode("utf-8", "surrogatepass"))
    return made


def _folder() -> Path:
    return Path(os.environ.get("MINDVL_CACHE") or Path.home() / ".cache" / "mindvl") / "tokenizers"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
