"""WebDataset: tars whose members share a key a record; and the same with what Energon keeps beside its tars."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mindvl_data.exports.records import Record
from mindvl_data.manifest import Manifest

SHARD_BYTES = 256 << 20


def webdataset(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """`shard-00000.tar` …: a `.json` a record, its images `.jpg` or `.0.jpg`, `.1.png` …, arrays as `.npy`."""
    _write(records, folder)


def energon(records: Iterator[Record], folder: Path, manifest: Manifest) -> None:
    """The same tars, each with the index of its records, and `.nv-meta`: a crude data set, every tar for training."""
    offsets = _write(records, folder)
    meta = folder / ".nv-meta"
    meta.mkdir()
    for name, starts in offsets.items():
        (folder / f"{name}.idx").write_bytes(struct.pack(f"<{len(starts)}Q", *starts))
    counts = {name: len(starts) - 1 for name, starts in offsets.items()}
    (meta / ".info.json").write_text(json.dumps({"shard_counts": counts}, indent=2) + "\n")
    parts = "".join(f"  - {name}\n" for name in offsets)
    (meta / "split.yaml").write_text(f"split_parts:\n  train:\n{parts}  val: []\n  test: []\nexclude: []\n")
    (meta / "dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")


def _write(records: Iterator[Record], folder: Path) -> dict[str, list[int]]:
    """By tar: where each of its records begins, and where the last one ends."""
    offsets: dict[str, list[int]] = {}
    archive: tarfile.TarFile | None = None
    for record in records:
        if archive is None or archive.offset >= SHARD_BYTES:
            if archive is not None:
                _close(archive, offsets)
            name = f"shard-{len(offsets):05d}.tar"
            archive = tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115, one after another
            offsets[name] = []
        offsets[Path(str(archive.name)).name].append(archive.offset)
        for suffix, data in _members(record):
            # No time, owner or mode of this machine: the same set gives the same tars.
            member = tarfile.TarInfo(f"{record.key}.{suffix}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    if archive is not None:
        _close(archive, offsets)
    return offsets


def _close(archive: tarfile.TarFile, offsets: dict[str, list[int]]) -> None:
    offsets[Path(str(archive.name)).name].append(archive.offset)
    archive.close()


def _members(record: Record) -> Iterator[tuple[str, bytes]]:
    yield "json", json.dumps(record.meta, ensure_ascii=False).encode()
    for number, (suffix, data) in enumerate(record.images):
        yield (suffix if len(record.images) == 1 else f"{number}.{suffix}"), data
    for name, values in record.arrays.items():
        yield f"{name}.npy", _npy(values)


def _npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()
