"""The note that a build leaves beside its sets: where this machine's recipe, images and tokenizer lie.

Whoever sends a data set can send such a note with it. So it counts only with a seal that this user's builds alone can
make: a keyed hash, its key in the cache folder (`MINDVL_CACHE` or ~/.cache/mindvl), made by the first build.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mindvl_data.shards import cache_folder

LOCAL_FILE = "local.json"
KEY_FILE = "builder.key"
KEY_BYTES = 32


@dataclass(frozen=True)
class BuilderNote:
    """What the builder said of its own machine.

    recipe_folder: what relative paths are relative to. recipe: the name of its file. roots: where the sources' files
    and images lie, as the recipe writes it. tokenizer: as the recipe writes it.
    """

    recipe_folder: str
    recipe: str
    roots: Sequence[str]
    tokenizer: str


def note_text(note: BuilderNote) -> str:
    """The note with its seal; without one where no key can be kept, which a reader then does not believe."""
    content = {**asdict(note), "roots": list(note.roots)}
    key = _kept_key() or _new_key()
    return json.dumps({**content, "seal": _seal(content, key)} if key else content) + "\n"


def read_note(build_folder: str | Path) -> BuilderNote | None:
    """The note beside a build's sets; None where there is none, or none that this user's builds have written."""
    key = _kept_key()
    try:
        content = json.loads((Path(build_folder) / LOCAL_FILE).read_text(encoding="utf-8"))
        seal = content.pop("seal")
        if key is None or not hmac.compare_digest(_seal(content, key), seal):
            return None
        return BuilderNote(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _seal(content: Mapping[str, Any], key: bytes) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _kept_key() -> bytes | None:
    try:
        key = (cache_folder() / KEY_FILE).read_bytes()
    except OSError:
        return None
    return key if len(key) == KEY_BYTES else None


def _new_key() -> bytes | None:
    """A key made and kept; the one that another build made meanwhile, where there is one."""
    path = cache_folder() / KEY_FILE
    unfinished = path.with_name(f"{KEY_FILE}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(unfinished, path)
        except FileExistsError:
            pass
        finally:
            unfinished.unlink()
    except OSError:
        return None
    return _kept_key()
