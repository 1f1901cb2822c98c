"""What is to be scanned, by which rules, and where what is made of it goes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mindvl_data import vision
from mindvl_data.sources import Asked
from mindvl_data.sources.files import SourceFile
from mindvl_data.sources.rounds import Thinking
from mindvl_data.tables import videos
from mindvl_data.vision.video.probe import MAX_FRAMES


@dataclass(frozen=True)
class Rules:
    """What the recipe says a sample may be."""

    max_image_pixels: int = vision.MAX_IMAGE_PIXELS
    max_images: int = 256
    max_text_chars: int = 2_000_000
    max_video_frames: int = MAX_FRAMES
    replace_invalid_utf8: bool = False
    decode: bool = False
    thinking: Thinking = "keep"
    split: bool = False


@dataclass(frozen=True)
class SplitTask:
    """One large file to cut into pieces, and where to write them down."""

    format: str
    file: SourceFile
    pieces: Path


@dataclass(frozen=True)
class ScanTask:
    """One file to scan, and where its samples table goes; the rest that it writes lies beside that by name.

    digest: take the SHA-256 of every image. subset: the file of uids to keep, each as often as it is listed.
    """

    source: str
    format: str
    file: SourceFile
    asked: Asked
    rules: Rules
    digest: bool
    subset: Path | None
    samples: Path
    media: Path

    @property
    def drops(self) -> Path:
        return self.samples.with_suffix(".drops.parquet")

    @property
    def columns(self) -> Path:
        """The fields of the data that filters name, a line a sample; only where there are such fields."""
        return self.samples.with_suffix(".columns.parquet")

    @property
    def videos(self) -> Path:
        """What the samples table does not say of its clips; only where it has any."""
        return videos.beside(self.samples)

    @property
    def image_files(self) -> Path:
        """The image files that the records name; only where they name any."""
        return self.samples.with_suffix(".images.parquet")
