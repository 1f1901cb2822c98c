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
# those from the first of them on; null where they are number / rate. pts, key: of each, in a container in which frames
# can be sought. offset, size: of each, in a row of pictures.
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
        ("key", pa.list_(pa.int64())),
        ("offset", pa.list_(pa.int64())),
        ("size", pa.list_(pa.int64())),
    ]
)
SUFFIX: Final = ".videos.parquet"
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
    key: NDArray[np.int64] | None = None
    offset: NDArray[np.int64] | None = None
    size: NDArray[np.int64] | None = None

    def chosen(self, numbers: NDArray[np.int64]) -> list[Frame]:
        """The frames with these numbers, counted from `first`."""
        times = numbers / self.rate if self.times is None else self.times[numbers]
        columns = [
            [None] * len(numbers) if column is None else column[numbers].tolist()
            for column in (self.pts, self.key, self.offset, self.size)
        ]
        rows = zip((numbers + self.first).tolist(), times.tolist(), *columns, strict=True)
        return [Frame(*row) for row in rows]


def beside(samples: Path) -> Path:
    """The table of the clips of a samples table, also of one whose texts were rewritten."""
    return samples.with_name(samples.name.partition(".")[0] + SUFFIX)


def table_of(lines: Sequence[tuple[int, int, VideoLine]]) -> pa.Table:
    """Lines of (sample, image, clip), in the order of the samples, as VIDEOS."""
    columns: dict[str, list[Any]] = {"sample": [s for s, _, _ in lines], "image": [i for _, i, _ in lines]}
    columns |= {name: [getattr(line, name) for _, _, line in lines] for name in VIDEOS.names[2:]}
    return pa.table([pa.array(columns[field.name], field.type) for field in VIDEOS], schema=VIDEOS)


class VideoTable:
    """Clips by sample and image; read when first asked for, columns that are lists only for the lines asked for."""

    def __init__(self, samples: Path) -> None:
        path = beside(samples)
        self._table = pq.read_table(path, schema=VIDEOS) if path.exists() else VIDEOS.empty_table()
        of = self._table.select(["sample", "image"])
        pairs = zip(*(column.to_pylist() for column in of.columns), strict=True)
        self._lines = {pair: number for number, pair in enumerate(pairs)}
        self._of_sample: dict[int, frozenset[int]] = {}
        for sample, image in self._lines:
            self._of_sample[sample] = self._of_sample.get(sample, frozenset()) | {image}

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, sample: int, image: int) -> VideoLine | None:
        """The clip that an image of a sample is; None for a picture."""
        number = self._lines.get((sample, image))
        if number is None:
            return None
        row = {name: self._table.column(name)[number] for name in VIDEOS.names[2:]}
        return VideoLine(**{name: _value(value) for name, value in row.items()})

    def numbers(self, sample: int) -> frozenset[int]:
        """Which images of a sample are clips."""
        return self._of_sample.get(sample, frozenset())

    def facts(self, start: int, stop: int) -> pa.Table:
        """The lines of the samples from `start` to `stop`, without their lists."""
        names = ["sample", "image", "duration", "rate", "frames", "has_audio"]
        samples = self._table.column("sample").to_numpy()
        first, end = np.searchsorted(samples, [start, stop]).tolist()
        return self._table.select(names).slice(first, end - first)

    def of_sample(self, sample: int, images: int) -> list[VideoLine | None]:
        """What each image of a sample is."""
        return [self.get(sample, image) for image in range(images)]


def _value(scalar: pa.Scalar) -> Any:
    if isinstance(scalar, pa.ListScalar):
        return scalar.values.to_numpy(zero_copy_only=False) if scalar.is_valid else None
    return scalar.as_py()
