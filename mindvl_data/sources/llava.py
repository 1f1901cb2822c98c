"""LLaVA JSON: a list of entries with `conversations` (from, value), `<image>` a place, `image` a path or list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mindvl_data.schema import Part
from mindvl_data.sources import Record, Sample, Unusable, attempt, split_places
from mindvl_data.sources.files import SourceError, SourceFile

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read(file: SourceFile) -> Iterator[Record]:
    """One sample an entry of the list."""
    with file.open() as handle:
        try:
            entries = json.load(handle)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{file.uri}: not JSON ({error})") from error
    if not isinstance(entries, list):
        raise SourceError(f"{file.uri}: LLaVA JSON is a list of entries, this is a {type(entries).__name__}")
    for number, entry in enumerate(entries):
        yield attempt(str(number), _sample, entry, file)


def _sample(key: str, entry: Any, file: SourceFile) -> Sample:
    if not isinstance(entry, dict) or not isinstance(entry.get("conversations"), list):
        raise Unusable("malformed_record", "an entry is an object with a list of conversations")
    if "video" in entry or "videos" in entry:
        raise Unusable("unsupported_media", "video")
    paths = entry.get("image", [])
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise Unusable("malformed_record", "image is neither a path nor a list of paths")
    parts = [part for turn, item in enumerate(entry["conversations"]) for part in _turn(turn, item)]
    places = sum(part.text is None for part in parts)
    if places != len(paths):
        raise Unusable("image_count_mismatch", f"{places} places for {len(paths)} images")
    uid = entry.get("id")
    return Sample(key, parts, [file.image(path) for path in paths], None if uid is None else str(uid))


def _turn(number: int, item: Any) -> Iterator[Part]:
    role = ROLES.get(item.get("from", "")) if isinstance(item, dict) else None
    if role is None or not isinstance(item.get("value"), str):
        raise Unusable("malformed_record", f"turn {number} has no known `from` or no text in `value`")
    yield from split_places(item["value"], number, role, item.get("loss"))
