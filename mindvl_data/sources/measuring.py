"""From a clip's bytes to its line in the table of clips: header, and which of its frames count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.sources import ImageBytes, Unusable, Video
from mindvl_data.tables.videos import FRAMES, VideoLine
from mindvl_data.vision import ImageHeader, read_header
from mindvl_data.vision.video.probe import ClipHeader, probe
from mindvl_data.vision.video.reading import read_frames

# Frames without times are taken to be what the families look at: two a second.
LISTED_RATE = 2.0


def clip_of(video: Video, media: Sequence[ImageBytes], max_pixels: int, max_frames: int) -> tuple[VideoLine, int, int]:
    """The line of a clip, its width and its height as a viewer shows it. Raises as `clip_line` does."""
    if video.listed:
        headers = [read_header(medium.data, max_pixels) for medium in media]
        return frames_line(video, media, headers), headers[0].width, headers[0].height
    header, line = clip_line(video, media[0], max_pixels, max_frames)
    return line, header.width, header.height


def clip_line(video: Video, data: ImageBytes, max_pixels: int, max_frames: int) -> tuple[ClipHeader, VideoLine]:
    """The header of a clip in a container, and its line. Raises BadImage, Unusable, NoVideoSupportError."""
    header = probe(data.data, max_pixels, max_frames)
    times = header.times()
    first, stop = _window(times, video.start, video.end)
    pts = None if header.pts is None else header.pts[first:stop]
    line = VideoLine(
        container=header.container,
        codec=header.codec,
        rotation=header.rotation,
        frames=stop - first,
        first=first,
        duration=_duration(header, times, first, stop),
        rate=header.rate,
        variable=header.variable,
        has_audio=header.has_audio,
        times=times[first:stop] - times[first] if header.variable else None,
        **_stamps(header, pts),
    )
    return header, line


def _stamps(header: ClipHeader, pts: NDArray[np.int64] | None) -> dict[str, Any]:
    """The time stamps of frames, in two numbers where they are evenly spaced, and those of key frames."""
    if pts is None:
        return {}
    steps = np.diff(pts)
    if len(pts) > 1 and (steps == steps[0]).all():
        return {"pts_start": int(pts[0]), "pts_step": int(steps[0]), "keys": header.keys}
    return {"pts": pts, "keys": header.keys}


def _window(times: NDArray[np.float64], start: float | None, end: float | None) -> tuple[int, int]:
    """The frames from `start` to before `end`, as numbers. Raises Unusable where there is none."""
    first = 0 if start is None else int(np.searchsorted(times, start - 1e-9))
    stop = len(times) if end is None else int(np.searchsorted(times, end - 1e-9))
    if first >= stop:
        raise Unusable("malformed_record", f"no frame from second {start} to {end}: the last is at {times[-1]:.3f}")
    return first, stop


def _duration(header: ClipHeader, times: NDArray[np.float64], first: int, stop: int) -> float:
    end = header.duration if stop == header.frames else float(times[stop])
    return end - float(times[first])


def frames_line(video: Video, pictures: Sequence[ImageBytes], headers: Sequence[ImageHeader]) -> VideoLine:
    """The line of a clip that is a row of pictures, back to back. Raises Unusable where none is within its seconds."""
    rate = video.rate or LISTED_RATE
    times = np.array(video.times) if video.times else np.arange(len(pictures)) / rate
    first, stop = _window(times, video.start, video.end)
    sizes = np.array([len(picture.data) for picture in pictures], np.int64)
    gaps = np.diff(times)
    rate = float(1 / np.median(gaps)) if video.times and len(gaps) else rate
    shown = times[first:stop] - times[first]
    return VideoLine(
        container=FRAMES,
        codec=headers[0].format,
        rotation=0,
        frames=stop - first,
        first=first,
        duration=float(shown[-1]) + 1 / rate,
        rate=rate,
        variable=bool(video.times),
        has_audio=False,
        times=shown if video.times else None,
        offset=(np.cumsum(sizes) - sizes)[first:stop],
        size=sizes[first:stop],
    )


def check_frames(data: bytes | memoryview, line: VideoLine, max_pixels: int) -> None:
    """Decodes every frame that counts, one at a time. Raises BadImage."""
    for _ in read_frames(data, line.chosen(np.arange(line.frames)), max_pixels):
        pass


def joined(pictures: Sequence[ImageBytes]) -> ImageBytes:
    """Pictures back to back: a copy, which no file holds yet; of a single one itself."""
    if len(pictures) == 1:
        return pictures[0]
    return ImageBytes(b"".join(picture.data for picture in pictures))
