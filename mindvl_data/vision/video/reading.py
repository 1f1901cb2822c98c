"""Frames out of a clip: sought, decoded, and what lies between dropped; never more than one picture in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, pairwise, repeat
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.header import MAX_IMAGE_PIXELS, check_size
from mindvl_data.vision.pixels import load_pixels, on_white
from mindvl_data.vision.video.container import opened
from mindvl_data.vision.video.frame import Frame

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

Pixels = NDArray[np.uint32]


def read_frames(
    data: bytes | memoryview, frames: Sequence[Frame], max_image_pixels: int = MAX_IMAGE_PIXELS
) -> Iterator[Pixels]:
    """The pictures of some frames as `load_pixels` gives them: upright, on white.

    Args:
        data: of the whole clip.
        frames: in any order; one that comes again at once is given again and decoded once. Where they go back, the
            clip is opened anew: entries in a row may be of one clip, cut in several ways.
        max_image_pixels: of one frame.

    Yields:
        uint32 [height, width] a frame.

    Raises:
        BadImage: `unreadable_video` or `truncated_video`, also for a frame that is not where its time stamp says.
        NoVideoSupportError: PyAV is not installed.
    """
    distinct = [frame for frame, _ in groupby(frames)]
    if frames and frames[0].size is not None:
        pictures: Iterator[Pixels] = _in_a_row(data, distinct, max_image_pixels)
    else:
        rising = [part for part in _rising(distinct) if part]
        pictures = chain.from_iterable(_in_container(data, part, max_image_pixels) for part in rising)
    for _, same in groupby(frames):
        yield from repeat(next(pictures), len(list(same)))


def _rising(frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    """Parts of the frames, in each of which they follow each other in the clip."""
    cuts = [place for place in range(1, len(frames)) if frames[place].index <= frames[place - 1].index]
    for start, stop in pairwise([0, *cuts, len(frames)]):
        yield frames[start:stop]


def _in_a_row(data: bytes | memoryview, frames: Iterable[Frame], max_image_pixels: int) -> Iterator[Pixels]:
    view = memoryview(data)
    for frame in frames:
        start, size = frame.offset or 0, frame.size or 0
        yield load_pixels(view[start : start + size], max_image_pixels)


def _in_container(data: bytes | memoryview, frames: Sequence[Frame], max_image_pixels: int) -> Iterator[Pixels]:
    with opened(data) as (container, stream):
        # Workers decode several clips at once: threads of one decoder would only wait for each other.
        stream.thread_type = "NONE"
        # A frame may be larger than its container says: it is refused before there is memory for it.
        stream.codec_context.options = {"max_pixels": str(max_image_pixels)}
        found = _by_stamp if frames and frames[0].pts is not None else _by_count
        for picture in found(container, stream, frames):
            check_size(picture.width, picture.height, max_image_pixels)
            yield _pixels(picture)


def _by_count(container: InputContainer, stream: VideoStream, frames: Sequence[Frame]) -> Iterator[VideoFrame]:
    pictures = enumerate(container.decode(stream))
    for frame in frames:
        found = next((picture for number, picture in pictures if number == frame.index), None)
        if found is None:
            raise BadImage("truncated_video", f"frame {frame.index} is not there: the clip ends before it")
        yield found


def _by_stamp(container: InputContainer, stream: VideoStream, frames: Sequence[Frame]) -> Iterator[VideoFrame]:
    decoder = _Decoder(container, stream)
    for frame in frames:
        yield decoder.frame(frame)


class _Decoder:
    """Pictures by ascending time stamp: it goes on from where it is unless a key frame is nearer."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._container, self._stream = container, stream
        self._pictures: Iterator[Any] | None = None
        self._at: int | None = None

    def frame(self, frame: Frame) -> VideoFrame:
        """The picture of a frame. Raises BadImage."""
        pts, key = frame.pts or 0, frame.pts if frame.key is None else frame.key
        if self._pictures is None or self._at is None or (key is not None and key > self._at):
            self._seek(key or 0)
        found = self._next(pts)
        if found is None:
            # A container seeks by the time of decoding: what it takes for the key frame may be the one behind.
            self._seek(None)
            found = self._next(pts)
        if found is None:
            raise BadImage("unreadable_video", f"frame {frame.index} cannot be decoded: nothing is shown at its time")
        return found

    def _seek(self, key: int | None) -> None:
        if key is None:
            start = self._stream.start_time
            self._container.seek(min(0, start or 0), stream=self._stream, backward=True)
        else:
            self._container.seek(key, stream=self._stream, backward=True)
        self._pictures = iter(self._container.decode(self._stream))

    def _next(self, pts: int) -> VideoFrame | None:
        """The next picture with this time stamp; None once it is passed by."""
        assert self._pictures is not None
        for picture in self._pictures:
            self._at = picture.pts
            if picture.pts is not None and picture.pts >= pts:
                return picture if picture.pts == pts else None
        return None


def _pixels(picture: VideoFrame) -> Pixels:
    """A decoded frame in four bytes a pixel, turned as a viewer turns it."""
    clear = _has_alpha(picture)
    stored = picture.to_ndarray(format="rgba").view(np.uint32)[:, :, 0]
    pixels = on_white(stored) if clear else stored
    return np.rot90(pixels, picture.rotation // 90) if picture.rotation else pixels


def _has_alpha(picture: VideoFrame) -> bool:
    return any(component.is_alpha for component in picture.format.components)
