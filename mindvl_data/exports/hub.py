"""`datasets`: Parquet and a card, the layout of the hub, which `load_dataset` opens as it lies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mindvl_data.exports.parquet import write_rows
from mindvl_data.exports.records import Record
from mindvl_data.inspect.card import card
from mindvl_data.manifest import Manifest

IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))),
            ("loss", pa.bool_()),
            ("weight", pa.float32()),
            ("reasoning_content", pa.string()),
            # JSON: no two tools have arguments of one type.
            ("tool_calls", pa.string()),
            ("tool_call_id", pa.string()),
            ("name", pa.string()),
        ]
    )
)
TYPES = {
    "key": pa.string(),
    "sample_id": pa.string(),
    "source": pa.string(),
    "repeat": pa.int32(),
    "uid": pa.string(),
    "messages": MESSAGES,
    "tools": pa.string(),
    "num_tokens": pa.int32(),
    "cu_seqlens": pa.list_(pa.int32()),
    "sample_ids": pa.list_(pa.string()),
    "sources": pa.list_(pa.string()),
    "repeats": pa.list_(pa.int32()),
    "image_starts": pa.list_(pa.int32()),
    "image_grids": pa.list_(pa.list_(pa.int32())),
    "tokens": pa.list_(pa.int32()),
    "loss_mask": pa.list_(pa.uint8()),
    "loss_weight": pa.list_(pa.float32()),
    "images": IMAGES,
    "videos": IMAGES,
    "image_files": pa.list_(pa.int32()),
    "image_times": pa.list_(pa.list_(pa.float64())),
}
PICTURES = frozenset({"jpg", "png", "webp", "gif", "bmp", "tif"})


def datasets(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """`data/train-00000.parquet` … and the data card as README.md; images are the library's Image, clips its Video."""
    (folder / "README.md").write_text(card(manifest.data), encoding="utf-8")
    has_clips = "video" in manifest.data["resolution"]
    rows = ((_row(record, has_clips), sum(len(data) for _, data in record.images)) for record in records)
    write_rows(rows, folder, _schema)


def _row(record: Record, has_clips: bool) -> dict[str, Any]:
    """A line; of a set with clips all lines have a list of them."""
    images, videos = images_of(record), images_of(record, clips=True)
    meta = dict(record.meta)
    if "messages" in meta:
        meta["messages"] = [_message(message) for message in meta["messages"]]
        meta["tools"] = json.dumps(meta["tools"], ensure_ascii=False) if meta["tools"] else None
    row = {"key": record.key, **meta, **record.arrays, "images": images}
    return row | ({"videos": videos} if has_clips else {})


def images_of(record: Record, clips: bool = False) -> list[dict[str, Any]]:
    """Its pictures, or its clips, as the library has them: bytes and a name."""
    files = [(suffix, {"bytes": data, "path": f"{i}.{suffix}"}) for i, (suffix, data) in enumerate(record.images)]
    return [file for suffix, file in files if (suffix in PICTURES) != clips]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    calls = message.get("tool_calls")
    return {**message, "tool_calls": json.dumps(calls, ensure_ascii=False)} if calls else message


def _schema(names: list[str]) -> pa.Schema:
    """With the note by which `datasets` knows the images for images; it finds out all else."""
    features = {name: feature_of(TYPES[name]) for name in names} | {"images": list_of({"_type": "Image"})}
    features |= {"videos": list_of({"_type": "Video"})} if "videos" in names else {}
    note = {"info": {"features": features}}
    return pa.schema([(name, TYPES[name]) for name in names], metadata={"huggingface": json.dumps(note)})


def feature_of(kind: pa.DataType) -> Any:
    """What the library calls a column's type."""
    if pa.types.is_list(kind):
        return list_of(feature_of(kind.value_type))
    if pa.types.is_struct(kind):
        return {field.name: feature_of(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}


def list_of(item: Any) -> dict[str, Any]:
    """A list of such things."""
    return {"feature": item, "_type": "List"}
