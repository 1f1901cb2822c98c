"""Pictures with a text file beside each, `a.png` and `a.txt`: a list of them is what a recipe can name."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.inspect.start.find import PICTURES, is_data, walk
from mindvl_data.sources.files import store_of

NAME = "captions.jsonl"


def list_captions(path: str) -> str | None:
    """Writes `captions.jsonl` into a local folder of pictures and their texts that holds no data file yet.

    Returns:
        How many pictures have a text, in words; None where the path is no such folder.

    Raises:
        UserError: a text cannot be read, or the list cannot be written.
    """
    if "://" in path or not os.path.isdir(path):
        return None
    pictures: dict[Path, Path | None] = {}
    for folder, names in walk(path, *store_of(os.path.abspath(path))):
        if any(map(is_data, names)):
            return None
        for name in names:
            if not name.startswith(".") and name.lower().endswith(PICTURES):
                text = f"{os.path.splitext(name)[0]}.txt"
                pictures[Path(folder, name)] = Path(folder, text) if text in names else None
    if not any(pictures.values()):
        return None
    _write(Path(path), {picture: text for picture, text in sorted(pictures.items()) if text})
    named = sum(text is not None for text in pictures.values())
    return f"{named:,} of {len(pictures):,} pictures, by the text file beside each"


def _write(folder: Path, pictures: dict[Path, Path]) -> None:
    try:
        lines = [
            json.dumps({"image": str(picture.relative_to(folder)), "caption": _text(text)})
            for picture, text in pictures.items()
        ]
        atomic.write_text(folder / NAME, "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise UserError(f"{folder / NAME}: cannot be made of the text files beside the pictures ({error})") from error


def _text(path: Path) -> str:
    """Bytes that are not UTF-8 stay, as lone surrogates: what becomes of them is the scan's rule."""
    return path.read_bytes().decode("utf-8-sig", "surrogateescape").strip()
