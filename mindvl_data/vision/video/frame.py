"""A frame that was chosen out of a clip: what a shard says of it, and how a reader finds it again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """One frame of a clip.

    Attributes:
        index: its number in the order of presentation, from 0.
        time: seconds from the beginning of the clip (or of what was cut out of it).
        pts: its time stamp in the time base of a container's stream; None where a container has no usable ones, and
            its frames are counted from the first on.
        key: the time stamp of the key frame at or before it, from which it can be decoded.
        offset, size: where the clip is a row of pictures, the range of this one in the clip's bytes.
    """

    index: int
    time: float
    pts: int | None = None
    key: int | None = None
    offset: int | None = None
    size: int | None = None
