"""MDS, the format of MosaicML streaming: shards of at most 4 GiB and one index, as its own writer makes them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mindvl_data.exports.records import Record
from mindvl_data.manifest import Manifest

SHARD_BYTES = 64 << 20


def mds(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """A column a field, json where it is a list; `images`: those of a record in a row, `image_bytes`: their sizes."""
    shards: list[dict[str, Any]] = []
    waiting: list[bytes] = []
    size = 0
    columns: dict[str, tuple[str, int | None]] = {}
    for record in records:
        values = _values(record)
        columns = columns or {name: _encoding(value) for name, value in values.items()}
        sample = _sample(values, columns)
        if waiting and size + len(sample) > SHARD_BYTES:
            shards.append(_shard(folder, len(shards), waiting, columns))
            waiting, size = [], 0
        waiting.append(sample)
        size += len(sample)
    if waiting:
        shards.append(_shard(folder, len(shards), waiting, columns))
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}, sort_keys=True))


def _values(record: Record) -> dict[str, Any]:
    values = {
        "key": record.key,
        **record.meta,
        **record.arrays,
        "images": b"".join(data for _, data in record.images),
        "image_bytes": [len(data) for _, data in record.images],
    }
    return dict(sorted(values.items()))


def _encoding(value: Any) -> tuple[str, int | None]:
    """How a column is encoded, and its size in bytes where all values have one."""
    match value:
        case str():
            return "str", None
        case bytes():
            return "bytes", None
        case int():
            return "int", 8
        case np.ndarray():
            return f"ndarray:{value.dtype.name}:{','.join(map(str, value.shape))}", value.nbytes
    return "json", None


def _sample(values: Mapping[str, Any], columns: Mapping[str, tuple[str, int | None]]) -> bytes:
    data = [_encoded(values[name]) for name in columns]
    sizes = [len(item) for item, (_, fixed) in zip(data, columns.values(), strict=True) if fixed is None]
    return np.array(sizes, "<u4").tobytes() + b"".join(data)


def _encoded(value: Any) -> bytes:
    match value:
        case str():
            return value.encode()
        case bytes():
            return value
        case int():
            return np.int64(value).tobytes()
        case np.ndarray():
            return value.tobytes()
    return json.dumps(value).encode()


def _shard(
    folder: Path, number: int, samples: list[bytes], columns: Mapping[str, tuple[str, int | None]]
) -> dict[str, Any]:
    name = f"shard.{number:05d}.mds"
    described: dict[str, Any] = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": [],
        "size_limit": SHARD_BYTES,
        "column_names": list(columns),
        "column_encodings": [encoding for encoding, _ in columns.values()],
        "column_sizes": [size for _, size in columns.values()],
    }
    config = json.dumps(described, sort_keys=True).encode()
    offsets = np.cumsum([0, *map(len, samples)], dtype=np.int64) + 4 + 4 * (len(samples) + 1) + len(config)
    with (folder / name).open("wb") as file:
        file.write(np.uint32(len(samples)).tobytes() + offsets.astype("<u4").tobytes() + config)
        file.writelines(samples)
    raw = {"basename": name, "bytes": int(offsets[-1]), "hashes": {}}
    return described | {"samples": len(samples), "raw_data": raw, "zip_data": None}
