"""What rows write where a clip is: a path, bytes, a data URL, a list of frames, or a struct of one of them with times.

A flat list of pictures is one clip of these frames; any other list is a clip each. A struct may say `start` and `end`
(or `video_start`, `video_end`) in seconds, and of frames their `times` or their rate (`fps`, `sample_fps`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

from mindvl_data.sources import ImageBytes, ImagePath, Row, Unusable, Video, listed
from mindvl_data.sources.images import image_of, is_absent
from mindvl_data.sources.members import IMAGES, kind_by_bytes
from mindvl_data.vision.video.container import PREFIX_BYTES

FIELDS: Final = ("videos", "video")
SOUND: Final = ("audio", "audios")
_MEDIA = ("video", "frames", "bytes", "path", "url")
_START, _END, _RATE = ("start", "video_start"), ("end", "video_end"), ("sample_fps", "fps")


def videos_of(row: Row) -> list[Video]:
    """The clips of a row's `videos`, else of its `video`. Raises Unusable, also for sound."""
    for name in SOUND:
        if row.get(name):
            raise Unusable("unsupported_media", f"{name}: sound is not read yet")
    value: Any = next((row[name] for name in FIELDS if not _is_none(row.get(name))), None)
    if value is None:
        return []
    if isinstance(value, str) and value.startswith("["):
        value = listed({"videos": value}, "videos") or value
    clips = value if isinstance(value, list) and not _are_frames(value) else [value]
    around = {name: row[name] for name in (*_START, *_END, *_RATE, "times") if name in row}
    # What a row says of its clip it says of the one that it has.
    return [video_of(item, around if len(clips) == 1 else {}) for item in clips if not is_absent(item)]


def video_of(value: Any, around: Row | None = None) -> Video:
    """The clip in a cell of a table or a value of JSON; `around` says what it does not say itself. Raises Unusable."""
    said: dict[str, Any] = dict(around or {})
    if isinstance(value, dict):
        said |= {name: item for name, item in value.items() if item is not None}
        value = next((value[name] for name in _MEDIA if not is_absent(value.get(name))), None)
        if isinstance(value, dict):  # OpenAI's video_url holds its url in an object
            return video_of(value, said)
    if isinstance(value, list):
        return _of_frames(value, said)
    if is_absent(value):
        raise Unusable("missing_image", "a video has neither bytes nor a path")
    start, end = (_seconds(said, names) for names in (_START, _END))
    if start is not None and end is not None and not start < end:
        raise Unusable("malformed_record", f"a video from second {start} to {end} has no length")
    return Video((image_of(value),), False, start, end)


def _of_frames(values: Sequence[Any], said: Row) -> Video:
    frames = tuple(image_of(value) for value in values)
    if not frames:
        raise Unusable("missing_image", "a video is a list without frames")
    start, end = (_seconds(said, names) for names in (_START, _END))
    times = said.get("times")
    if times is not None:
        times = _ascending(times, len(frames))
    rate = _seconds(said, _RATE)
    if rate is not None and not rate > 0:
        raise Unusable("malformed_record", f"the rate of a video's frames is {rate}")
    return Video(frames, True, start, end, times, rate)


def _ascending(times: Any, count: int) -> tuple[float, ...]:
    sound = isinstance(times, list) and all(_is_number(time) for time in times)
    if not sound or len(times) != count or any(a >= b for a, b in pairwise(times)):
        raise Unusable("malformed_record", f"`times` of a video's {count} frames is no list of as many rising seconds")
    return tuple(map(float, times))


def _seconds(said: Row, names: Sequence[str]) -> float | None:
    value = next((said[name] for name in names if said.get(name) is not None), None)
    if value is None:
        return None
    if not _is_number(value):
        raise Unusable("malformed_record", f"`{names[0]}` of a video is {value!r}, no number")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_none(value: Any) -> bool:
    return value == [] or is_absent(value)


def _are_frames(values: Sequence[Any]) -> bool:
    """Whether a list is the frames of one clip: all of it pictures, by their names or first bytes."""
    return bool(values) and all(map(_is_picture, values))


def _is_picture(value: Any) -> bool:
    if isinstance(value, dict) and not any(name in value for name in ("video", "frames", *_START, *_END)):
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, ImageBytes):
        value = bytes(value.data[:PREFIX_BYTES])
    if isinstance(value, bytes):
        return kind_by_bytes(value[:PREFIX_BYTES]) == "image"
    if isinstance(value, ImagePath):
        value = value.path
    if not isinstance(value, str):
        return False
    return value.startswith("data:image/") or value.rpartition(".")[2].lower() in IMAGES - {"gif"}
