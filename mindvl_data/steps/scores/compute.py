"""One partition through the functions that score it, a batch at a time; each column goes into a file of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mindvl_data.media import Access, MediaReader
from mindvl_data.steps.scores import (
    NO_CLIPS,
    THUMBNAIL,
    Clips,
    ScoreError,
    Thumbnails,
    Wanted,
    function_of,
    inputs_of,
)
from mindvl_data.steps.scores.columns import write_columns
from mindvl_data.tables.schema import SAMPLES
from mindvl_data.tables.store import starts_of
from mindvl_data.tables.videos import VideoTable
from mindvl_data.vision import BadImage, load_rgb
from mindvl_data.vision.video.sampled import evenly, mosaic, pictures

BATCH_SAMPLES = 4096
# Decoded thumbnails take 4 KiB each, and a picture is decoded whole before it is small.
BATCH_PICTURES = 512


@dataclass(frozen=True)
class Pictures:
    """Where the images of a samples table lie: what a MediaReader needs."""

    build_folder: Path | str
    roots: tuple[str, ...]
    recipe_folder: Path
    max_pixels: int

    def opened(self) -> MediaReader:
        return MediaReader(self.build_folder, Access(self.recipe_folder, self.roots))


@dataclass(frozen=True)
class ScoreTask:
    """A partition's samples table, and the columns it is to have: which function, and the file for its values."""

    samples: Path
    wanted: Mapping[Path, Wanted]
    pictures: Pictures


def score(task: ScoreTask) -> None:
    """Write every file of `task.wanted`. Raises ScoreError where a function does not return a value a sample."""
    functions = {path: function_of(wanted) for path, wanted in task.wanted.items()}
    asked = sorted({name for function in functions.values() for name in inputs_of(function)})
    found: dict[Path, list[pl.Series]] = {path: [] for path in functions}
    for inputs, count in _batches(task, asked):
        for path, function in functions.items():
            wanted = task.wanted[path]
            values = function(*(inputs[name] for name in inputs_of(function)), **dict(wanted.options))
            if not isinstance(values, pl.Series) or len(values) != count:
                raise ScoreError(f"the score {wanted.function} did not return a pl.Series of {count} values")
            found[path].append(values.rename(wanted.column))
    for path, parts in found.items():
        # A batch of nulls alone may have no kind of its own.
        kind = next((part.dtype for part in parts if part.dtype != pl.Null), pl.Null)
        column = pl.concat([part.cast(kind) if part.dtype == pl.Null else part for part in parts])
        write_columns(column.to_frame(), path)


def try_out(wanted: Wanted) -> None:
    """The function on no samples: what it lacks (a package, a model's file) shows then. Raises ScoreError."""
    function = function_of(wanted)
    none = {field.name: pl.Series(field.name, pa.array([], field.type)) for field in SAMPLES}
    nothing = Thumbnails(np.zeros((0, THUMBNAIL, THUMBNAIL), np.uint8), np.zeros(0, bool), np.zeros(1, np.int64))
    inputs = {**none, "text": pl.Series("text", [], pl.String), "thumbnails": nothing, "clips": NO_CLIPS}
    function(*(inputs[name] for name in inputs_of(function)), **dict(wanted.options))


def _batches(task: ScoreTask, asked: list[str]) -> Iterator[tuple[dict[str, Any], int]]:
    """The inputs of every batch of lines, and how many lines it has."""
    columns = [name for name in asked if name not in ("text", "thumbnails", "clips")]
    columns += ["parts"] * ("text" in asked) + ["images"] * ("thumbnails" in asked)
    columns = columns or ["num_images"]
    table = VideoTable(task.samples) if {"thumbnails", "clips"} & {*asked} else None
    start = 0
    size = BATCH_PICTURES if "thumbnails" in asked else BATCH_SAMPLES
    with task.pictures.opened() as reader:
        file = pq.ParquetFile(task.samples)
        # A table without lines is a batch too: its columns have kinds all the same.
        none = pa.RecordBatch.from_pylist([], pa.schema([file.schema_arrow.field(name) for name in columns]))
        for batch in file.iter_batches(size, columns=columns) if file.metadata.num_rows else [none]:
            inputs: dict[str, Any] = {
                name: pl.Series(name, batch.column(name)) for name in columns if name not in ("parts", "images")
            }
            if "text" in asked:
                inputs["text"] = texts(batch.column("parts"))
            if table is not None and "thumbnails" in asked:
                shown = _Shown(reader, task.pictures.max_pixels, table, start)
                inputs["thumbnails"] = _thumbnails(batch.column("images"), shown)
            if table is not None and "clips" in asked:
                inputs["clips"] = _clips(table, start, batch.num_rows)
            start += batch.num_rows
            yield inputs, batch.num_rows


def texts(parts: pa.Array) -> pl.Series:
    """The `parts` of n samples → the text of each, newlines between its pieces: String [n], empty where it has none.

    Descriptions of tools, which a conversation may call, are none of it.
    """
    part = pl.element().struct
    said = part.field("text").filter(part.field("field").fill_null("") != "tools").drop_nulls()
    pieces = pl.Series("text", parts).list.eval(said)
    return pieces.list.join("\n").fill_null("")


def _clips(table: VideoTable, start: int, count: int) -> Clips:
    """The clips of the samples from `start` on."""
    facts = table.facts(start, start + count)
    duration, rate = (facts.column(name).to_numpy() for name in ("duration", "rate"))
    frames = facts.column("frames").to_numpy().astype(np.int64)
    has_audio = facts.column("has_audio").to_numpy(zero_copy_only=False).astype(bool)
    owners = facts.column("sample").to_numpy() - start
    return Clips(duration, rate, frames, has_audio, starts_of(np.bincount(owners, minlength=count)))


@dataclass(frozen=True)
class _Shown:
    """Reads what the images of a batch look like. table, start: the clips, and the batch's first line among samples."""

    reader: MediaReader
    max_pixels: int
    table: VideoTable
    start: int

    def picture(self, sample: int, number: int, line: dict[str, Any]) -> Image.Image:
        """An image, or a few frames of a clip two by two. Raises BadImage."""
        clip = self.table.get(self.start + sample, number)
        data = self.reader.read(line["uri"], line["offset"], line["size"], line["sha256"])
        if clip is None:
            return load_rgb(data, self.max_pixels, at_least=THUMBNAIL)
        return mosaic(pictures(data, clip.chosen(evenly(clip.frames)), self.max_pixels))


def _thumbnails(images: pa.ListArray, shown: _Shown) -> Thumbnails:
    rows = images.to_pylist()
    lines = [(sample, number, line) for sample, row in enumerate(rows) for number, line in enumerate(row)]
    levels = np.zeros((len(lines), THUMBNAIL, THUMBNAIL), np.uint8)
    sound = np.ones(len(lines), bool)
    for place, (sample, number, line) in enumerate(lines):
        try:
            picture = shown.picture(sample, number, line)
        except BadImage:
            sound[place] = False
            continue
        small = picture.convert("L").resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
        levels[place] = np.asarray(small)
    return Thumbnails(levels, sound, starts_of(images.value_lengths().to_numpy(zero_copy_only=False)))
