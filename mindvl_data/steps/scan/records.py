"""What becomes of a file's records: lines of the samples table, or drops with their reasons."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import IO, NamedTuple

from mindvl_data import vision
from mindvl_data.sources import Failed, Image, ImageBytes, ImagePath, Record, Sample, Unusable, Video
from mindvl_data.sources.files import MISSING, ImageFile
from mindvl_data.sources.measuring import check_frames, clip_of
from mindvl_data.sources.measuring import joined as joined_pictures
from mindvl_data.sources.rounds import shaped
from mindvl_data.sources.subset import UidSubset
from mindvl_data.steps.scan.tasks import ScanTask
from mindvl_data.tables.samples import SURROGATES, ImageLine, Kept, Lost, Measured, clean
from mindvl_data.tables.schema import BOM, Part
from mindvl_data.tables.videos import VideoLine, VideoWriter
from mindvl_data.vision.aspect import MAX_ASPECT, check_aspect
from mindvl_data.vision.video.container import NoVideoSupportError

# A row group of the samples table: so many samples, or fewer where their texts are long.
BATCH_SAMPLES = 4096
BATCH_CHARS = 16 << 20
# So many are held at a time, with the images in them, where a subset is asked for their uids.
LOOKED_UP_SAMPLES = 64
MAX_TURN = 2**15 - 1
EMPTY = Kept(), Lost()


class Facts(NamedTuple):
    """What the samples table says of a picture or a clip, as a viewer shows it."""

    width: int
    height: int
    format: str


class Scanner:
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
