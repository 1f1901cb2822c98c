"""Pictures and clips of a row, and their places in its texts: `<image>` and, of a row with clips, `<video>`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from mindvl_data.sources import Image, Row, Unusable, Video
from mindvl_data.sources.images import MARKER, VIDEO_MARKER, images_of
from mindvl_data.sources.videos import FIELDS, SOUND, videos_of
from mindvl_data.tables.schema import Part

# The fields of a row that hold media.
MEDIA_FIELDS = ("image", "images", *FIELDS, *SOUND)


class Media(NamedTuple):
    """What stands beside the texts of a row."""

    images: Sequence[Image]
    videos: Sequence[Video]

    def __bool__(self) -> bool:
        return bool(self.images or self.videos)

    @property
    def all(self) -> list[Image]:
        """Where nothing says otherwise the clips stand behind the pictures."""
        return [*self.images, *self.videos]


def media_of(row: Row) -> Media:
    """The pictures and clips of a row. Raises Unusable, also for sound."""
    return Media(images_of(row), videos_of(row))


def in_places(parts: Sequence[Part], media: Media) -> tuple[list[Part], list[Image]]:
    """The parts with a place for each marker in their texts, and the media in the order of their places.

    `<video>` is a marker where there are clips. Where there are no pictures and no `<video>`, a clip's place is
    `<image>`, as LLaVA-Video writes it. Raises Unusable for other numbers of places than of media.
    """
    markers = markers_in(parts, media)
    pieces = [piece for part in parts for piece in _pieces(part, markers)]
    waiting = {MARKER: iter(media.images), VIDEO_MARKER: iter(media.videos)}
    found = [next(waiting[marker], None) for _, marker in pieces if marker]
    left = sum(1 for each in waiting.values() for _ in each)
    if left or None in found:
        raise Unusable("image_count_mismatch", _mismatch(pieces, media))
    return [part for part, _ in pieces], [medium for medium in found if medium is not None]


def placed(parts: list[Part], media: Media) -> tuple[list[Part], list[Image]]:
    """The same; where no text has a marker, all stand before them. Without media `<image>` is text."""
    if not media:
        return parts, []
    if has_markers(parts, media):
        return in_places(parts, media)
    return [*[parts[0]._replace(text=None)] * len(media.all), *parts], media.all


def placed_behind(parts: list[Part], start: int, media: Media) -> tuple[list[Part], list[Image]]:
    """`in_places`; where no text has a marker, all stand before part `start`, in a turn of the user's."""
    if has_markers(parts, media):
        return in_places(parts, media)
    places = [Part(parts[start].turn, "user", None, None)] * len(media.all)
    return [*parts[:start], *places, *parts[start:]], media.all


def has_markers(parts: Sequence[Part], media: Media) -> bool:
    """Whether the texts say where the media stand."""
    markers = markers_in(parts, media)
    return any(marker in part.text for part in parts if part.text for marker in markers)


def markers_in(parts: Iterable[Part], media: Media) -> dict[str, str]:
    """What stands for a picture and for a clip in these texts: kind by marker."""
    if not media.videos:
        return {MARKER: MARKER}
    if not media.images and not any(VIDEO_MARKER in (part.text or "") for part in parts):
        return {MARKER: VIDEO_MARKER}
    return {MARKER: MARKER, VIDEO_MARKER: VIDEO_MARKER}


def split_at(part: Part, media: Media) -> Iterator[tuple[Part, str | None]]:
    """A text cut at `<image>` and, where there are clips, at `<video>`: beside each piece the marker that it was."""
    markers = {MARKER: MARKER, **({VIDEO_MARKER: VIDEO_MARKER} if media.videos else {})}
    return _pieces(part, markers)


def _pieces(part: Part, markers: dict[str, str]) -> Iterator[tuple[Part, str | None]]:
    """A part cut at its markers; beside each piece what it is the place of, or None for text."""
    if part.text is None:
        return
    if not any(marker in part.text for marker in markers):
        yield part, None
        return
    for piece in re.split(f"({'|'.join(markers)})", part.text):
        if piece in markers:
            yield part._replace(text=None), markers[piece]
        elif piece or not part.text:  # an empty turn is a turn
            yield part._replace(text=piece), None


def _mismatch(pieces: Sequence[tuple[Part, str | None]], media: Media) -> str:
    places = [marker for _, marker in pieces if marker]
    if not media.videos:
        return f"{len(places)} places for {len(media.images)} images"
    counts = {kind: places.count(kind) for kind in (MARKER, VIDEO_MARKER)}
    return (
        f"{counts[MARKER]} places for {len(media.images)} images, {counts[VIDEO_MARKER]} for {len(media.videos)} videos"
    )
