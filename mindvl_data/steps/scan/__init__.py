"""The scan: one file of a source becomes lines of the samples table, pointers and sizes, no pixels decoded."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data import atomic
from mindvl_data.errors import reading
from mindvl_data.runtime import plugins, seals
from mindvl_data.runtime.memory import free_large_blocks_at_once
from mindvl_data.sources import GROUP, Piece, Record, Scattered, SourceError
from mindvl_data.sources.files import ImageFile, SourceFile
from mindvl_data.steps.scan.records import EMPTY, Scanner
from mindvl_data.steps.scan.tasks import Rules, ScanTask, SplitTask
from mindvl_data.tables.samples import joined
from mindvl_data.tables.schema import IMAGE_FILES, LEDGER, SAMPLES
from mindvl_data.tables.videos import VideoWriter

__all__ = ["Rules", "ScanTask", "SplitTask", "image_files_changed", "parts", "scan", "split", "unused_members"]

# Columns whose values repeat; looking for repeats in the others, hashes and texts, costs a third of the writing.
REPEATED = ["images.list.element.uri", "images.list.element.format", "parts.list.element.role"]
# In a samples table's metadata: how many samples have members beside them that are not used, by suffix.
UNUSED = "mindvl_unused"


def split(task: SplitTask) -> None:
    """Write `task.pieces`: the file's pieces as JSON, none where it is read in one go."""
    with reading(task.file.uri, task.format, SourceError):
        pieces = plugins.load(GROUP, task.format).pieces(task.file)
    with seals.sealed(task.pieces) as partial:
        partial.write_text(json.dumps(pieces))


def parts(task: SplitTask) -> list[SourceFile]:
    """The file's pieces, or itself."""
    pieces = [Piece(*piece) for piece in json.loads(seals.checked(task.pieces).read_text())]
    return [replace(task.file, piece=piece) for piece in pieces] or [task.file]


def scan(task: ScanTask) -> None:
    """Write `task.samples`, `task.drops` and what goes with them, each sealed, the samples last: their seal names the
    others, and says that the scan of this file is whole.
    """
    if "://" in task.file.place:
        free_large_blocks_at_once()
    try:
        _scan(task)
    except Scattered:
        _scan(replace(task, file=replace(task.file, one_pass=False)))


def _scan(task: ScanTask) -> None:
    beside: list[Path] = []
    with seals.sealed(task.samples, beside) as samples, seals.sealed(task.drops) as drops:
        scanner, columns = _scan_records(task, samples, drops, beside)
        if task.asked.keep:
            beside.append(_write(joined(columns, task.asked.keep), task.columns))
        if scanner.image_files:
            beside.append(_write(_image_files(scanner.image_files), task.image_files))
        if task.file.changed():
            raise SourceError(f"{task.file.uri}: changed while it was scanned; run the same command again")
        beside.append(task.drops)


def _scan_records(
    task: ScanTask, samples_path: Path, drops_path: Path, beside: list[Path]
) -> tuple[Scanner, list[pa.Table]]:
    """The tables and the media of a file; the scanner at its end, and the data's own columns."""
    records = _records(task)
    columns = []
    with (
        ExitStack() as stack,
        _media(task.media, beside) as media,
        _videos(task.videos, beside) as clips,
        pq.ParquetWriter(samples_path, SAMPLES, compression="zstd", use_dictionary=REPEATED) as samples,
        pq.ParquetWriter(drops_path, LEDGER, compression="zstd") as drops,
    ):
        scanner = Scanner(task, media, clips)
        counted = scanner.counted(records)
        # What is loaded by now is not looked through again and again for cycles, of which a scan makes none.
        stack.callback(gc.unfreeze)
        gc.freeze()
        while (batch := scanner.scan(counted)) != EMPTY:
            kept, lost = batch
            samples.write_batch(kept.table(task.source, task.file.path))
            drops.write_batch(lost.table(task.source, task.file.path, task.file.uri))
            columns.append(kept.data_table(task.asked.keep))
        if scanner.unused:
            samples.add_key_value_metadata({UNUSED: json.dumps(dict(sorted(scanner.unused.items())))})
    return scanner, columns


@contextmanager
def _videos(path: Path, beside: list[Path]) -> Iterator[VideoWriter]:
    """The file for what is said of clips; there is none where there are none."""
    loose = atomic.partial_of(path.with_suffix(".loose"))
    writer = VideoWriter(loose)
    try:
        yield writer
        writer.close()
        if writer.count:
            with seals.sealed(path) as partial:
                loose.rename(partial)
            beside.append(path)
    finally:
        loose.unlink(missing_ok=True)


@contextmanager
def _media(path: Path, beside: list[Path]) -> Iterator[IO[bytes]]:
    """The file for images that have no other place; there is none where nothing is written to it."""
    loose = atomic.partial_of(path.with_suffix(".loose"))
    try:
        with loose.open("wb") as file:
            yield file
        if loose.stat().st_size:
            with seals.sealed(path) as partial:
                loose.rename(partial)
            beside.append(path)
    finally:
        loose.unlink(missing_ok=True)


def _records(task: ScanTask) -> Iterator[Record]:
    """What the format's reader makes of the file. Whatever it raises, a plugin's too, is this file's fault."""
    with reading(task.file.uri, task.format, SourceError):
        yield from plugins.load(GROUP, task.format)(task.file, task.asked)


def image_files_changed(task: ScanTask) -> bool:
    """Whether an image that the records of a scanned file name by path is no more what the scan saw."""
    if not task.image_files.exists():
        return False
    # Not by read_table: it loads pyarrow.dataset and pandas, half a second of every build with nothing to do.
    table = pq.ParquetFile(task.image_files).read(IMAGE_FILES.names)
    paths, sizes, times = (column.to_pylist() for column in table.columns)
    return any(
        task.file.image_file(path) != ImageFile(size, time)
        for path, size, time in zip(paths, sizes, times, strict=True)
    )


def unused_members(samples: Path) -> Counter[str]:
    """How many samples of a scanned file have members that are no part of them, by suffix."""
    note = pq.read_metadata(samples).metadata or {}
    return Counter(json.loads(note.get(UNUSED.encode(), b"{}")))


def _write(table: pa.Table, path: Path) -> Path:
    with seals.sealed(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return path


def _image_files(found: dict[str, ImageFile]) -> pa.Table:
    paths = sorted(found)
    sizes, times = ([found[path][i] for path in paths] for i in (0, 1))
    return pa.table([paths, sizes, times], schema=IMAGE_FILES)
