"""The clips of a samples table: what the table's `images` do not say of an entry that is one.

A table beside the samples table, only where there are clips: what a file without them is scanned to stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mindvl_data.vision.video.frame import Frame

# sample: line of the samples table. image: the entry among its images. container: FFmpeg's name, or `frames` of a row
# of pictures. frames, duration, rate: of what counts of it, of the frames from `first` on. times: seconds of each of
# those from the first of them on; null where they are number / rate. In a container in which frames can be sought:
# pts, of each, or where they are evenly spaced, as a constant rate's mostly are, pts_start and pts_step; keys, those of
# key frames. offset, size: of each, in a row of pictures.
VIDEOS: Final = pa.schema(
    [
        ("sample", pa.int64()),
        ("image", pa.int32()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("rotation", pa.int16()),
        ("frames", pa.int32()),
        ("first", pa.int32()),
        ("duration", pa.float64()),
        ("rate", pa.float64()),
        ("variable", pa.bool_()),
        ("has_audio", pa.bool_()),
        ("times", pa.list_(pa.float64())),
        ("pts", pa.list_(pa.int64())),
        ("pts_start", pa.int64()),
        ("pts_step", pa.int64()),
        ("keys", pa.list_(pa.int64())),
        ("offset", pa.list_(pa.int64())),
        ("size", pa.list_(pa.int64())),
    ]
)
SUFFIX: Final = ".videos.parquet"
FACTS: Final = ["sample", "image", "duration", "rate", "frames", "has_audio"]
# A row group: so many clips, or fewer where their lists are long.
GROUP_LINES, GROUP_VALUES = 4096, 1 << 21
# The container that is none, but a row of pictures.
FRAMES: Final = "frames"


@dataclass(frozen=True)
class VideoLine:
    """One line of VIDEOS, without what says whose it is."""

    container: str
    codec: str
    rotation: int
    frames: int
    first: int
    duration: float
    rate: float
    variable: bool
    has_audio: bool
    times: NDArray[np.float64] | None = None
    pts: NDArray[np.int64] | None = None
    pts_start: int | None = None
    pts_step: int | None = None
    keys: NDArray[np.int64] | None = None
    offset: NDArray[np.int64] | None = None
    size: NDArray[np.int64] | None = None

    def chosen(self, numbers: NDArray[np.int64]) -> list[Frame]:
        """The frames with these numbers, counted from `first`."""
        times = numbers / self.rate if self.times is None else self.times[numbers]
        ranges = [None if column is None else column[numbers] for column in (self.offset, self.size)]
        columns = [
            [None] * len(numbers) if column is None else column.tolist() for column in (*self._stamps(numbers), *ranges)
        ]
        rows = zip((numbers + self.first).tolist(), times.tolist(), *columns, strict=True)
        return [Frame(*row) for row in rows]

    def _stamps(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64] | None, NDArray[np.int64] | None]:
        """The time stamps of frames, and of the key frame at or before each; the first for what is before all."""
        if self.pts_step is not None and self.pts_start is not None:
            pts = self.pts_start + self.pts_step * numbers
        elif self.pts is not None:
            pts = self.pts[numbers]
        else:
            return None, None
        if self.keys is None or not len(self.keys):
            return pts, pts
        return pts, self.keys[(np.searchsorted(self.keys, pts, side="right") - 1).clip(min=0)]

    @property
    def values(self) -> int:
        """How many numbers its lists have."""
        lists = (self.times, self.pts, self.keys, self.offset, self.size)
        return sum(len(column) for column in lists if column is not None)


def beside(samples: Path) -> Path:
    """The table of the clips of a samples table, also of one whose texts were rewritten."""
    return samples.with_name(samples.name.partition(".")[0] + SUFFIX)


def table_of(lines: Sequence[tuple[int, int, VideoLine]]) -> pa.Table:
    """Lines of (sample, image, clip), in the order of the samples, as VIDEOS."""
    columns: dict[str, list[Any]] = {"sample": [s for s, _, _ in lines], "image": [i for _, i, _ in lines]}
    columns |= {name: [getattr(line, name) for _, _, line in lines] for name in VIDEOS.names[2:]}
    return pa.table([pa.array(columns[field.name], field.type) for field in VIDEOS], schema=VIDEOS)


class VideoWriter:
    """Writes the clips of a scan as they come: what is held is bounded, however long they are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._lines: list[tuple[int, int, VideoLine]] = []
        self._values = 0
        self.count = 0

    def add(self, sample: int, image: int, line: VideoLine) -> None:
        self._lines.append((sample, image, line))
        self._values += line.values
        self.count += 1
        if self._values >= GROUP_VALUES or len(self._lines) >= GROUP_LINES:
            self._write()

    def close(self) -> None:
        """Ends the file; of no clips there is none."""
        if self._lines:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, VIDEOS, compression="zstd")
        self._writer.write_table(table_of(self._lines))
        self._lines, self._values = [], 0


class VideoTable:
    """Clips by sample and image. What lists they have is read when they are asked for, a row group at a time."""

    def __init__(self, samples: Path) -> None:
        path = beside(samples)
        self._file = pq.ParquetFile(path) if path.exists() else None
        self._facts = VIDEOS.empty_table().select(FACTS) if self._file is None else self._file.read(FACTS)
        pairs = zip(*(self._facts.column(name).to_pylist() for name in ("sample", "image")), strict=True)
        self._lines = {pair: number for number, pair in enumerate(pairs)}
        self._of_sample: dict[int, frozenset[int]] = {}
        for sample, image in self._lines:
            self._of_sample[sample] = self._of_sample.get(sample, frozenset()) | {image}
        groups = range(0 if self._file is None else self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(group).num_rows for group in groups] if self._file else []
        self._starts = np.cumsum([0, *sizes])
        self._group: tuple[int, pa.Table] | None = None

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, sample: int, image: int) -> VideoLine | None:
        """The clip that an image of a sample is; None for a picture."""
        number = self._lines.get((sample, image))
        if number is None or self._file is None:
            return None
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        if self._group is None or self._group[0] != group:
            self._group = group, self._file.read_row_group(group)
        table, row = self._group[1], number - int(self._starts[group])
        return VideoLine(**{name: _value(table.column(name)[row]) for name in VIDEOS.names[2:]})

    def numbers(self, sample: int) -> frozenset[int]:
        """Which images of a sample are clips."""
        return self._of_sample.get(sample, frozenset())

    def facts(self, start: int, stop: int) -> pa.Table:
        """The lines of the samples from `start` to `stop`, without their lists."""
        first, end = np.searchsorted(self._facts.column("sample").to_numpy(), [start, stop]).tolist()
        return self._facts.slice(first, end - first)

    def of_sample(self, sample: int, images: int) -> list[VideoLine | None]:
        """What each image of a sample is."""
        return [self.get(sample, image) for image in range(images)]


def _value(scalar: pa.Scalar) -> Any:
    if isinstance(scalar, pa.ListScalar):
        return scalar.values.to_numpy(zero_copy_only=False) if scalar.is_valid else None
    return scalar.as_py()
