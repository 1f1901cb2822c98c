"""What a model is asked with: the tokenizer, template and pixel bounds that it was last trained with.

One record, `processing.json`, lies beside the weights in every folder that we write: checkpoints, averages, imported
and exported models. Where it says something, no default does.
"""

import json
from pathlib import Path
from typing import Any

from mindvl_data import atomic
from mindvl_data.errors import UserError
from mindvl_data.manifest import Manifest

RECORD = "processing.json"
# Where a published folder keeps its image processor, and below which key; the second is that of transformers 5.
PROCESSORS = {"preprocessor_config.json": None, "processor_config.json": "image_processor"}
Json = dict[str, Any]


class ProcessingError(UserError):
    """A record or an image processor that cannot be read; says which."""


def of_manifest(manifest: Manifest) -> Json:
    """What a manifest says: `tokenizer`, `chat_template`, `resolution` and `seq_len`."""
    rule = manifest.resolution
    videos = {"video": rule.video.described()} if rule.video else {}
    return {
        "tokenizer": {"sha256": manifest.tokenizer["sha256"]},
        "chat_template": dict(manifest.data["chat_template"]),
        "resolution": rule.described() | videos,
        "seq_len": manifest.seq_len,
    }


def read_processing(folder: Path) -> Json:
    """The record of a folder; empty where there is none."""
    path = folder / RECORD
    return _read(path) if path.exists() else {}


def write_processing(folder: Path, data: Json) -> None:
    """Writes the record, if anything is known."""
    if data:
        (folder / RECORD).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def of_published(*folders: Path) -> Json:
    """What published folders say: their record where we wrote one, and the bounds of the first image processor.

    The processor counts for more, because it is what transformers reads and what a person or `resolve` may change.
    """
    records = [data for folder in folders if (data := read_processing(folder))]
    data = records[0] if records else {}
    for folder in folders:
        bounds = _bounds(read_processor(folder)[1])
        if bounds:
            return data | {"resolution": data.get("resolution", {}) | bounds}
    return data


def read_processor(folder: Path) -> tuple[Path | None, Json]:
    """The file with a folder's image processor, and the processor; None and nothing where there is none."""
    for name, key in PROCESSORS.items():
        path = folder / name
        if path.exists():
            content = _read(path)
            found = content.get(key) if key else content
            if isinstance(found, dict) and found:
                return path, found
    return None, {}


def write_bounds(folder: Path, min_pixels: int, max_pixels: int) -> Path | None:
    """Puts bounds into every image processor of a folder, under each name that versions of transformers read.

    Returns:
        The file that transformers opens first; None: there is no processor.
    """
    written = []
    for name, key in PROCESSORS.items():
        path = folder / name
        content = _read(path) if path.exists() else {}
        processor = content.get(key) if key else content
        if not isinstance(processor, dict) or not processor:
            continue
        changed = processor | {"min_pixels": min_pixels, "max_pixels": max_pixels}
        if "size" in processor:
            changed["size"] = {"shortest_edge": min_pixels, "longest_edge": max_pixels}
        written.append(path)
        if changed != processor:
            _replace(path, content | {key: changed} if key else changed)
    return written[0] if written else None


def _bounds(processor: Json) -> Json:
    """`min_pixels` and `max_pixels`, which transformers 5 calls the edges of `size`."""
    size = processor.get("size") or {}
    least = processor.get("min_pixels") or size.get("shortest_edge")
    most = processor.get("max_pixels") or size.get("longest_edge")
    return {"min_pixels": int(least), "max_pixels": int(most)} if least and most else {}


def _read(path: Path) -> Json:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ProcessingError(f"{path}: is not JSON ({error}); fetch or export the folder again") from error
    if not isinstance(content, dict):
        raise ProcessingError(f"{path}: holds no JSON object; fetch or export the folder again")
    return content


def _replace(path: Path, content: Json) -> None:
    atomic.write_text(path, json.dumps(content, indent=2) + "\n")
