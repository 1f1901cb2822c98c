"""Clips of the lines that are counted: which frames stand for each of them at the bounds of every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mindvl_data.tables.schema import Drop, Part
from mindvl_data.tables.videos import VideoTable
from mindvl_data.tokenise import Encoded
from mindvl_data.tokenise.clips import Entry, medium_entries, with_clips
from mindvl_data.tokenise.frames import FrameEncoder
from mindvl_data.vision import BadImage, Resolution, num_vision_tokens, patch_grid
from mindvl_data.vision.video.rule import TEMPORAL_PATCH

# The line of a sample in its samples table, of a partition with clips.
ROW = "<row>"

# What each placeholder of each line stands for, at each of the bounds.
Entries: TypeAlias = list[list[list[Entry]]]


# The most frames that may be looked at of each clip of a line at one of the bounds, by (bounds, line).
Most: TypeAlias = dict[tuple[int, int], int]


def clip_entries(
    batch: pa.RecordBatch,
    table: VideoTable,
    at: Sequence[Resolution],
    render: str,
    texts: list[list[Part]],
    rows: NDArray[np.int64],
    lost: dict[int, Drop],
    most: Most,
) -> Entries:
    """The entries of every line at each of the bounds `at`.

    Texts of lines with clips are replaced by those with the clips' tokens, and lines whose clips cannot be looked at
    are added to `lost`. rows: which of the texts each line is, int64 [bounds, lines].
    """
    sizes = _sizes(batch)
    entries: Entries = [[] for _ in at]
    for line, (number, of_line) in enumerate(zip(batch.column(ROW).to_pylist(), sizes, strict=True)):
        clips = table.of_sample(number, len(of_line))
        without = [texts[row] for row in rows[:, line]]
        for place, bounds in enumerate(at):
            try:
                rule = _at_most(bounds, most.get((place, line)))
                media = [medium_entries(i, clip, of_line[i], rule) for i, clip in enumerate(clips)]
            except BadImage as error:
                lost[line] = Drop(error.reason, error.detail)
                media = [[Entry(i)] for i in range(len(of_line))]
            entries[place].append([entry for medium in media for entry in medium])
            if any(clips) and line not in lost:
                written = with_clips(without[place], media, render)
                if place == 0:
                    texts[line] = written
                else:
                    rows[place, line] = len(texts)
                    texts.append(written)
    return entries


def _at_most(bounds: Resolution, frames: int | None) -> Resolution:
    """The rule with so many frames of a clip at most."""
    if frames is None or bounds.video is None:
        return bounds
    rule = bounds.video
    fewer = {name: min(frames, getattr(rule, name)) for name in ("min_frames", "max_frames")}
    stated = rule.frames and min(frames, rule.frames)
    return replace(bounds, video=replace(rule, frames=stated, **fewer))


def encode_frames(
    batch: pa.RecordBatch, at: Sequence[Resolution], encoder: FrameEncoder, entries: Entries, lost: dict[int, Drop]
) -> None:
    """Puts frames encoded anew in the place of clips; a line of which a frame does not decode is added to `lost`."""
    for line, images in enumerate(batch.column("images").to_pylist()):
        for place, bounds in enumerate(at):
            if line in lost or bounds.video is None or bounds.video.jpeg is None:
                continue
            try:
                entries[place][line] = encoder.encoded(entries[place][line], images, bounds.patch, bounds.video.jpeg)
            except BadImage as error:
                lost[line] = Drop(error.reason, error.detail)


def fewer_frames(
    batch: pa.RecordBatch, at: Sequence[Resolution], encoded: Encoded, rows: NDArray[np.int64], entries: Entries
) -> Most:
    """For every line that is too long for a rule with `fit_tokens`, how many frames a clip of it may have instead.

    By the share of vision tokens that there is room for, in pairs; none of what has a single pair left.
    """
    sizes = _sizes(batch)
    lengths, found = np.diff(encoded.offsets), Most()
    for place, bounds in enumerate(at):
        limit = bounds.video.fit_tokens if bounds.video else None
        if limit is None:
            continue
        for line, media in enumerate(entries[place]):
            vision = sum(_vision_tokens(entry, sizes[line], bounds) for entry in media)
            room = limit - (int(lengths[rows[place, line]]) - len(media))
            frames = _frames_of_longest(media)
            if vision > room and frames > TEMPORAL_PATCH:
                share = int(frames * max(0, room) / vision) // TEMPORAL_PATCH * TEMPORAL_PATCH
                found[place, line] = max(TEMPORAL_PATCH, min(frames - 1, share))
    return found


def _vision_tokens(entry: Entry, sizes: Sequence[tuple[int, int]], bounds: Resolution) -> int:
    grid = entry.grid or patch_grid(*sizes[entry.image], bounds)
    return num_vision_tokens(*grid, bounds.merge)


def _frames_of_longest(media: Sequence[Entry]) -> int:
    """How many frames are looked at of the clip of which the most are."""
    counts: dict[int, int] = {}
    for entry in media:
        counts[entry.image] = counts.get(entry.image, 0) + len(entry.frames)
    return max(counts.values(), default=0)


def _sizes(batch: pa.RecordBatch) -> list[list[tuple[int, int]]]:
    """Width and height of the images of every line, in pixels."""
    return [[(image["width"], image["height"]) for image in images] for images in batch.column("images").to_pylist()]
