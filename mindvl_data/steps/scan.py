"""The scan: one file of a source becomes lines of the samples table, pointers and sizes, no pixels decoded."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mindvl_data import atomic, vision
from mindvl_data.errors import reading
from mindvl_data.runtime import plugins, seals
from mindvl_data.runtime.memory import free_large_blocks_at_once
from mindvl_data.sources import (
    GROUP,
    Asked,
    Failed,
    Image,
    ImageBytes,
    ImagePath,
    Piece,
    Record,
    Sample,
    Scattered,
    SourceError,
    Unusable,
    Video,
)
from mindvl_data.sources.files import MISSING, ImageFile, SourceFile
from mindvl_data.sources.measuring import check_frames, clip_of
from mindvl_data.sources.measuring import joined as joined_pictures
from mindvl_data.sources.rounds import Thinking, shaped
from mindvl_data.sources.subset import UidSubset
from mindvl_data.tables import videos
from mindvl_data.tables.samples import SURROGATES, ImageLine, Kept, Lost, Measured, clean, joined
from mindvl_data.tables.schema import BOM, IMAGE_FILES, LEDGER, SAMPLES, Part
from mindvl_data.tables.videos import VideoLine, VideoWriter
from mindvl_data.vision.aspect import MAX_ASPECT, check_aspect
from mindvl_data.vision.video.container import NoVideoSupportError
from mindvl_data.vision.video.probe import MAX_FRAMES

# A row group of the samples table: so many samples, or fewer where their texts are long.
BATCH_SAMPLES = 4096
BATCH_CHARS = 16 << 20
# So many are held at a time, with the images in them, where a subset is asked for their uids.
LOOKED_UP_SAMPLES = 64
# Columns whose values repeat; looking for repeats in the others, hashes and texts, costs a third of the writing.
REPEATED = ["images.list.element.uri", "images.list.element.format", "parts.list.element.role"]
MAX_TURN = 2**15 - 1
# In a samples table's metadata: how many samples have members beside them that are not used, by suffix.
UNUSED = "mindvl_unused"


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
) -> tuple[_Scanner, list[pa.Table]]:
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
        scanner = _Scanner(task, media, clips)
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


EMPTY = Kept(), Lost()


class Facts(NamedTuple):
    """What the samples table says of a picture or a clip, as a viewer shows it."""

    width: int
    height: int
    format: str


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


class _Scanner:
    """Records in batches to kept samples and drops. It remembers the image files it has seen.

    unused: how many samples have a member that is no part of them, by its suffix.
    """

    def __init__(self, task: ScanTask, media: IO[bytes], clips: VideoWriter) -> None:
        self._task = task
        self._media = media
        self._subset = UidSubset(task.subset) if task.subset else None
        self._excluded = frozenset(task.file.excluded)
        self.image_files: dict[str, ImageFile] = {}
        self.unused: Counter[str] = Counter()
        self._clips, self._lines = clips, 0

    def counted(self, records: Iterator[Record]) -> Iterator[tuple[Record, int]]:
        """Each record, and how often the subset lists its uid: once each where there is no subset."""
        if self._subset is None:
            return zip(records, itertools.repeat(1))
        return self._looked_up(records, self._subset)

    def _looked_up(self, records: Iterator[Record], subset: UidSubset) -> Iterator[tuple[Record, int]]:
        while batch := tuple(itertools.islice(records, LOOKED_UP_SAMPLES)):
            uids = [record.uid if isinstance(record, Sample) else None for record in batch]
            yield from zip(batch, subset.times(uids), strict=True)

    def scan(self, records: Iterator[tuple[Record, int]]) -> tuple[Kept, Lost]:
        """What becomes of the records that come next, in their order: a batch of them."""
        kept, lost, chars = Kept(), Lost(), 0
        for record, times in itertools.islice(records, BATCH_SAMPLES):
            try:
                if isinstance(record, Failed):
                    raise Unusable(record.drop.reason, record.drop.detail)
                if record.key in self._excluded:
                    raise Unusable("excluded", f"{record.key} is excluded by .nv-meta/split.yaml")
                if not times:
                    raise Unusable("not_in_subset", f"uid {record.uid}")
                rules = self._task.rules
                measured = [(one.key, self._measured(one)) for one in shaped(record, rules.thinking, rules.split)]
            except Unusable as error:
                lost.add(record.key, error.drop)
                continue
            for copy in range(times):
                for key, one in measured:
                    # A batch holds no lists of frames.
                    kept.add(key if copy == 0 else f"{key}-{copy}", one._replace(videos=()) if one.videos else one)
                    for image, line in one.videos:
                        self._clips.add(self._lines, image, line)
                    self._lines += 1
            chars += sum(one.text_chars for _, one in measured)
            if chars > BATCH_CHARS:
                break
        return kept, lost

    def _measured(self, sample: Sample) -> Measured:
        """Sizes from texts and image headers. Raises Unusable."""
        rules = self._task.rules
        if len(sample.images) > rules.max_images:
            raise Unusable("too_many_images", f"{len(sample.images)} images, limits.images is {rules.max_images}")
        self.unused.update(sample.unused)
        parts, replaced, chars, digest = self._texts(sample.parts)
        opened = [self._opened(image) for image in sample.images]
        found = [self._video(image) if isinstance(image, Video) else self._image(image) for image in opened]
        images = [self._line(data, *facts) for data, facts, _ in found]
        clips = [(number, line) for number, (_, _, line) in enumerate(found) if line]
        uid = None if sample.uid is None else clean(sample.uid)
        return Measured(uid, sample.data, parts, images, chars, replaced, digest, clips)

    def _texts(self, parts: list[Part]) -> tuple[list[Part], int, int, bytes]:
        """The parts within the rules for text, characters replaced, characters, and the hash. Raises Unusable."""
        rules, replaced = self._task.rules, 0
        text = "\0".join([part.text or "" for part in parts])
        if BOM in text:
            parts = [part._replace(text=part.text.removeprefix(BOM)) if part.text else part for part in parts]
            text = "\0".join([part.text or "" for part in parts])
        try:
            encoded = text.encode()
        except UnicodeEncodeError as error:
            if not rules.replace_invalid_utf8:
                raise Unusable("invalid_utf8", f"at character {error.start} of its texts") from error
            parts = [part if part.text is None else part._replace(text=clean(part.text)) for part in parts]
            replaced, encoded = len(SURROGATES.findall(text)), clean(text).encode()
        chars = len(text) - max(0, len(parts) - 1)
        if chars > rules.max_text_chars or (parts and parts[-1].turn > MAX_TURN):
            raise Unusable("text_too_long", f"{chars} characters, limits.text_chars is {rules.max_text_chars}")
        return parts, replaced, chars, hashlib.sha256(encoded).digest()

    def _opened(self, image: Image) -> ImageBytes | Video:
        if isinstance(image, Video):
            return image._replace(media=tuple(self._bytes(medium) for medium in image.media))
        return self._bytes(image)

    def _bytes(self, image: ImageBytes | ImagePath) -> ImageBytes:
        if isinstance(image, ImageBytes):
            return image
        if SURROGATES.search(image.path):
            raise Unusable("missing_image", f"{clean(image.path)!r} is not UTF-8")
        try:
            opened, found = self._task.file.image(image.path)
        except Unusable as error:
            if error.drop.reason == "missing_image":
                self.image_files[image.path] = MISSING
            raise
        if found:
            self.image_files[image.path] = found
        return opened

    def _image(self, image: ImageBytes) -> tuple[ImageBytes, Facts, None]:
        header = self._header(image)
        return image, Facts(header.width, header.height, header.format), None

    def _header(self, image: ImageBytes) -> vision.ImageHeader:
        rules = self._task.rules
        try:
            header = vision.read_header(image.data, rules.max_image_pixels)
            if max(header.width, header.height) > MAX_ASPECT * min(header.width, header.height):
                raise Unusable("aspect_ratio", f"{header.width}x{header.height}")
            if rules.decode:
                vision.check_pixels(image.data, rules.max_image_pixels)
        except vision.BadImage as error:
            raise Unusable(error.reason, error.detail) from error
        return header

    def _video(self, video: Video) -> tuple[ImageBytes, Facts, VideoLine]:
        """A clip's bytes, its size and its line. Raises Unusable."""
        rules, pictures = self._task.rules, [medium for medium in video.media if isinstance(medium, ImageBytes)]
        data = joined_pictures(pictures)
        try:
            line, width, height = clip_of(video, pictures, rules.max_image_pixels, rules.max_video_frames)
            check_aspect(width, height)
            if rules.decode:
                check_frames(data.data, line, rules.max_image_pixels)
        except NoVideoSupportError as error:
            raise Unusable("unsupported_media", str(error)) from error
        except vision.BadImage as error:
            raise Unusable(error.reason, error.detail) from error
        return data, Facts(width, height, line.container), line

    def _line(self, image: ImageBytes, width: int, height: int, kind: str) -> ImageLine:
        uri, offset = image.uri, image.offset
        if uri is None:
            uri, offset = f"build:media/{self._task.media.name}", self._media.tell()
            self._media.write(image.data)
        digest = hashlib.sha256(image.data).digest() if self._task.digest else None
        return ImageLine(uri, offset, len(image.data), width, height, kind, digest)
