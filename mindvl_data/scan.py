"""The scan: one file of a source becomes lines of the samples table, pointers and sizes, no pixels decoded."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data import plugins, vision
from mindvl_data.schema import LEDGER, SAMPLES, Drop, Part, sample_id
from mindvl_data.sources import GROUP, Failed, ImageBytes, Record, Sample
from mindvl_data.sources.files import SourceFile

BATCH_SAMPLES = 1024


@dataclass(frozen=True)
class ScanTask:
    """One file to scan. `out` is the samples table to write; its drops and media lie beside it by name."""

    source: str
    format: str
    file: SourceFile
    digest: bool
    samples: Path
    drops: Path
    media: Path


def scan(task: ScanTask) -> None:
    """Write `task.samples`, `task.drops` and, for bytes that no file holds as one range, `task.media`.

    Each appears by rename, the samples last: they say that the scan of this file is whole.
    """
    partial = [path.with_suffix(path.suffix + ".partial") for path in (task.samples, task.drops, task.media)]
    read = plugins.load(GROUP, task.format)
    with (
        pq.ParquetWriter(partial[0], SAMPLES, compression="zstd") as samples,
        pq.ParquetWriter(partial[1], LEDGER, compression="zstd") as drops,
        partial[2].open("wb") as media,
    ):
        lines = _lines(task, read(task.file), media)
        for batch in _batched(lines):
            kept = [line for line in batch if "reason" not in line]
            lost = [line for line in batch if "reason" in line]
            samples.write_batch(pa.RecordBatch.from_pylist(kept, SAMPLES))
            drops.write_batch(pa.RecordBatch.from_pylist(lost, LEDGER))
    _publish(partial[2], task.media)
    _publish(partial[1], task.drops)
    _publish(partial[0], task.samples)


def _batched(lines: Iterator[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], ...]]:
    while batch := tuple(itertools.islice(lines, BATCH_SAMPLES)):
        yield batch


def _publish(partial: Path, path: Path) -> None:
    if path.suffix == ".bin" and not partial.stat().st_size:
        partial.unlink()
        return
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)


def _lines(task: ScanTask, records: Iterator[Record], media: IO[bytes]) -> Iterator[dict[str, Any]]:
    """A line of the samples table, or of the ledger, for every record found."""
    for record in records:
        uid = sample_id(task.source, task.file.path, record.key)
        line = record.drop if isinstance(record, Failed) else _line(record, task, media)
        if isinstance(line, Drop):
            locator = f"{task.file.uri}#{record.key}"
            yield dict(
                sample_id=uid,
                source=task.source,
                locator=locator,
                step="scan",
                reason=line.reason,
                detail=line.detail,
            )
        else:
            yield {"sample_id": uid, **line}


def _line(sample: Sample, task: ScanTask, media: IO[bytes]) -> dict[str, Any] | Drop:
    try:
        headers = [vision.read_header(image.data) for image in sample.images]
    except vision.BadImage as error:
        return Drop(error.reason, error.detail)
    images = [_image(image, header, task, media) for image, header in zip(sample.images, headers, strict=True)]
    sides = [(header.width, header.height) for header in headers]
    return {
        "key": sample.key,
        "uid": sample.uid,
        "num_turns": len({part.turn for part in sample.parts}),
        "text_chars": sum(len(part.text or "") for part in sample.parts),
        "num_images": len(images),
        "width": min((w for w, _ in sides), default=None),
        "height": min((h for _, h in sides), default=None),
        "aspect": max((max(side) / min(side) for side in sides), default=None),
        "pixels": sum(w * h for w, h in sides) if sides else None,
        "image_bytes": sum(len(image.data) for image in sample.images) if sides else None,
        "text_hash": _text_hash(sample.parts),
        "images": images,
        "parts": [part._asdict() for part in sample.parts],
    }


def _image(image: ImageBytes, header: vision.ImageHeader, task: ScanTask, media: IO[bytes]) -> dict[str, Any]:
    uri, offset = image.uri, image.offset
    if uri is None:
        uri, offset = f"build:media/{task.media.name}", media.tell()
        media.write(image.data)
    return {
        "uri": uri,
        "offset": offset,
        "size": len(image.data),
        "width": header.width,
        "height": header.height,
        "format": header.format,
        "sha256": hashlib.sha256(image.data).digest() if task.digest else None,
    }


def _text_hash(parts: list[Part]) -> bytes:
    text = "\0".join("" if part.text is None else part.text for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
