"""The pictures and clips of a sample that is looked at: what the build would make of them, from their headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mindvl_data.errors import UserError
from mindvl_data.sources import Image, ImageBytes, Sample, Unusable, Video
from mindvl_data.sources.measuring import clip_of
from mindvl_data.tables.schema import Drop
from mindvl_data.tokenise.clips import Entry, medium_entries
from mindvl_data.vision import BadImage, Resolution, num_vision_tokens, patch_grid, read_header

if TYPE_CHECKING:
    from mindvl_data.recipe.sources import Limits


class Media(NamedTuple):
    """What a sample's media become.

    entries: of every medium what its placeholders stand for. vision_tokens: of all of them. size: their bytes. copied:
    the bytes of those that no file holds as one range, which a build keeps a copy of.
    """

    entries: Sequence[list[Entry]]
    vision_tokens: int
    size: int
    copied: int


def media_of(sample: Sample, rule: Resolution, limits: Limits) -> Media | Drop:
    """The media of a sample whose files were read, or why the build would drop it."""
    try:
        measured = [_measured(number, image, rule, limits) for number, image in enumerate(sample.images)]
    except BadImage as error:
        return Drop(error.reason, error.detail)
    except Unusable as error:
        return error.drop
    except UserError as error:  # no PyAV
        return Drop("unsupported_media", str(error))
    files = [file for image in sample.images for file in _files(image)]
    return Media(
        entries=[entries for entries, _ in measured],
        vision_tokens=sum(tokens for _, tokens in measured),
        size=sum(len(file.data) for file in files),
        copied=sum(len(file.data) for file in files if file.uri is None),
    )


def has_clips(sample: Sample) -> bool:
    return any(isinstance(image, Video) for image in sample.images)


def _measured(number: int, image: Image, rule: Resolution, limits: Limits) -> tuple[list[Entry], int]:
    """What the placeholders of a medium stand for, and their vision tokens."""
    files = _files(image)
    if isinstance(image, Video):
        clip, width, height = clip_of(image, files, limits.image_pixels, limits.video_frames)
        entries = medium_entries(number, clip, (width, height), rule)
    else:
        width, height, *_ = read_header(files[0].data, limits.image_pixels)
        entries = medium_entries(number, None, (width, height), rule)
    grids = [entry.grid or patch_grid(width, height, rule) for entry in entries]
    return entries, sum(num_vision_tokens(*grid, rule.merge) for grid in grids)


def _files(image: Image) -> list[ImageBytes]:
    media = image.media if isinstance(image, Video) else (image,)
    return [medium for medium in media if isinstance(medium, ImageBytes)]
