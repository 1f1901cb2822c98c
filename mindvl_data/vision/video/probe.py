"""A clip's header: size, frames, rate and time stamps, read from a container without decoding a picture.

The container's packets are walked, not believed: what counts as frames and duration are their time stamps. What a
header says beyond that (a longer duration, more frames) is a lie or the sign of a file that was cut.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.bad_image import BadImage
from mindvl_data.vision.header import MAX_IMAGE_PIXELS, check_size
from mindvl_data.vision.video.container import HEAD_BYTES, PREFIX_BYTES, boxes, container_of, opened

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

MAX_FRAMES: Final = 1_000_000
# A rate that a clip cannot have been taken with is one that nobody set.
_LEAST_RATE, _MOST_RATE = Fraction(1, 3600), Fraction(1000)
_MATRIX = struct.Struct(">9i").unpack_from
_POSE_ROLL = b"\x76\x75"
_FINE_UNITS = 5


@dataclass(frozen=True)
class ClipHeader:
    """What a clip is, as a viewer shows it.

    Attributes:
        width, height: in pixels, after `rotation`.
        rotation: degrees counterclockwise that a viewer turns the pictures by: 0, 90, 180 or 270.
        container, codec: FFmpeg's names.
        frames: how many are shown: distinct time stamps.
        rate: frames a second; of a variable rate, the average.
        variable: whether the time stamps are not those of one rate.
        duration: seconds from the first frame to the end of the last.
        has_audio: whether there is a stream of sound.
        time_base: seconds a unit of `pts`.
        pts: int64 [frames], ascending time stamps; None where they cannot be had (see `usable`).
        keys: int64, ascending time stamps of the key frames.
    """

    width: int
    height: int
    rotation: int
    container: str
    codec: str
    frames: int
    rate: float
    variable: bool
    duration: float
    has_audio: bool
    time_base: Fraction
    pts: NDArray[np.int64] | None
    keys: NDArray[np.int64]

    def times(self) -> NDArray[np.float64]:
        """Seconds of every frame from the first on, [frames]: index / rate, or what a variable rate's stamps say."""
        if self.variable and self.pts is not None:
            return np.asarray((self.pts - self.pts[0]) * float(self.time_base))
        return np.arange(self.frames) / self.rate


def probe(
    data: bytes | memoryview, max_image_pixels: int = MAX_IMAGE_PIXELS, max_frames: int = MAX_FRAMES
) -> ClipHeader:
    """The header of a clip.

    Args:
        data: of the whole file; it is walked through once and never held.
        max_image_pixels: of one frame.
        max_frames: of the clip; what is held in memory is 8 bytes a frame.

    Raises:
        BadImage: `unreadable_video`, `truncated_video`, `video_too_long`, `image_too_large`.
        NoVideoSupportError: PyAV is not installed.
    """
    with opened(data) as (container, stream):
        context = stream.codec_context
        check_size(context.width, context.height, max_image_pixels)
        if context.width < 1 or context.height < 1:
            raise BadImage("unreadable_video", f"its frames are {context.width}x{context.height} pixels")
        stamps = _stamps(container.demux(stream), max_frames)
        declared, base = stream.frames, Fraction(stream.time_base or 1)
        rates = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate]
        has_audio = any(each.type == "audio" for each in container.streams)
        codec, size = context.codec.canonical_name, (context.width, context.height)
    name = str(container_of(bytes(data[:PREFIX_BYTES])))
    _check_whole(name, declared, stamps)
    rotation = _rotation(data, name)
    width, height = size if rotation % 180 == 0 else size[::-1]
    pts, keys = _usable(name, stamps)
    frames = stamps.packets if pts is None else len(pts)
    rate, variable = _rate(pts, frames, base, rates)
    return ClipHeader(
        width=width,
        height=height,
        rotation=rotation,
        container=name,
        codec=codec,
        frames=frames,
        rate=rate,
        variable=variable,
        duration=_duration(pts, base, rate, variable, frames),
        has_audio=has_audio,
        time_base=base,
        pts=pts,
        keys=keys,
    )


@dataclass(frozen=True)
class _Stamps:
    """Of the packets that show a picture, in the order of the file; a stamp of None is left out."""

    packets: int
    pts: NDArray[np.int64]
    is_key: NDArray[np.bool_]
    damaged: bool


def _stamps(packets: Iterator[Packet[VideoStream]], max_frames: int) -> _Stamps:
    pts: list[int] = []
    is_key: list[bool] = []
    count, damaged = 0, False
    for packet in packets:
        # The last packet of all is empty. What an edit list cuts away is decoded and not shown.
        if not packet.size or packet.is_discard:
            continue
        count += 1
        damaged |= packet.is_corrupt
        if count > max_frames:
            raise BadImage("video_too_long", f"more than {max_frames} frames; limits.video_frames says how many may be")
        if packet.pts is not None:
            pts.append(packet.pts)
            is_key.append(packet.is_keyframe)
    return _Stamps(count, np.array(pts, np.int64), np.array(is_key, bool), damaged)


def _check_whole(container: str, declared: int, stamps: _Stamps) -> None:
    """Raises BadImage where there is less in the file than it says itself."""
    if stamps.damaged:
        raise BadImage("truncated_video", f"the file ends early: {stamps.packets} frames are there")
    if not stamps.packets:
        raise BadImage("unreadable_video", "it has no frames")
    # Indices count what edit lists hide too, so that only many fewer tell of a cut.
    if container in ("mp4", "avi") and stamps.packets < declared // 2:
        raise BadImage("truncated_video", f"{stamps.packets} of the {declared} frames that its header says are there")


def _usable(container: str, stamps: _Stamps) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Ascending distinct time stamps by which frames can be found, and those of key frames.

    None where a packet has no stamp, and of an AVI that is not of key frames alone: its stamps are in the order of
    decoding. The frames of such a clip are counted while it is decoded from its beginning.
    """
    if len(stamps.pts) < stamps.packets or (container == "avi" and not stamps.is_key.all()):
        return None, np.zeros(0, np.int64)
    pts = np.unique(stamps.pts)
    keys = np.unique(stamps.pts[stamps.is_key])
    return pts, keys


def _rate(pts: NDArray[np.int64] | None, frames: int, base: Fraction, declared: list[Fraction]) -> tuple[float, bool]:
    """Frames a second, and whether the stamps are of no one rate.

    A header's rate counts where the stamps bear it out to the time base's rounding; else their average does.
    """
    sane = [rate for rate in declared if _LEAST_RATE <= rate <= _MOST_RATE]
    if pts is None or frames < 2:
        return float(sane[0] if sane else 1), False
    average = (frames - 1) / (int(pts[-1] - pts[0]) * base)
    # Where units are as long as frames, an average would explain away the frames that are missing.
    fine = average * base * _FINE_UNITS <= 1
    for rate in (*sane, *([average] if fine else [])):
        ideal = np.arange(frames) / float(rate * base)
        if np.abs(pts - pts[0] - ideal).max() < 1:  # what rounding to units makes of two stamps
            return float(rate), False
    return float(average), True


def _duration(pts: NDArray[np.int64] | None, base: Fraction, rate: float, variable: bool, frames: int) -> float:
    if not variable or pts is None:
        return frames / rate
    return float(int(pts[-1] - pts[0]) * base) + 1 / rate


def _rotation(data: bytes | memoryview, container: str) -> int:
    """By the header's display matrix (ISO 14496-12, 8.3.2) or pose (Matroska), to the nearest right angle."""
    if container == "mp4":
        return _matrix_rotation(data)
    return _pose_rotation(bytes(data[:HEAD_BYTES])) if container == "matroska" else 0


def _matrix_rotation(data: bytes | memoryview) -> int:
    for track in _inside(data, 0, len(data), (b"moov", b"trak")):
        for kind, start, stop in boxes(data, *track):
            if kind == b"tkhd" and stop <= len(data):
                matrix = start + (52 if data[start] else 40)
                a, b, *_ = _MATRIX(data, matrix)
                # Sound has no width.
                if any(data[matrix + 36 : matrix + 44]):
                    return _right_angle(a, b)
    return 0


def _inside(data: bytes | memoryview, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """The contents of the boxes at a path of kinds."""
    for kind, first, stop in boxes(data, start, end):
        if kind == path[0] and stop <= end:
            if len(path) == 1:
                yield first, stop
            else:
                yield from _inside(data, first, stop, path[1:])


def _right_angle(a: int, b: int) -> int:
    """Of a matrix's first row, which turns the picture by atan2(b, a) clockwise: degrees the other way."""
    return round(-math.degrees(math.atan2(b, a)) / 90) * 90 % 360


def _pose_rotation(head: bytes) -> int:
    """By the element ProjectionPoseRoll (RFC 9559, 5.1.4.1.28.46), a float of four or eight bytes."""
    for size, form in ((b"\x88", ">d"), (b"\x84", ">f")):
        at = head.find(_POSE_ROLL + size)
        if at >= 0:
            (roll,) = struct.unpack_from(form, head.ljust(at + 16, b"\0"), at + 3)
            return round(roll / 90) * 90 % 360 if math.isfinite(roll) else 0
    return 0
