"""From a header to the frames that are looked at: what a shard says of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.video.frame import Frame
from mindvl_data.vision.video.probe import ClipHeader


def frames_of(header: ClipHeader, indices: NDArray[np.int64], since: float = 0.0) -> list[Frame]:
    """The frames with these numbers, int64 [n] ascending; their times count from `since` seconds on."""
    times = header.times()[indices] - since
    if header.pts is None:
        return [Frame(index, time) for index, time in zip(indices.tolist(), times.tolist(), strict=True)]
    pts = header.pts[indices]
    # The first key frame for what stands before all of them: it is decoded from the clip's beginning, or not at all.
    before = np.searchsorted(header.keys, pts, side="right") - 1
    keys = header.keys[before.clip(min=0)] if len(header.keys) else pts
    rows = zip(indices.tolist(), times.tolist(), pts.tolist(), keys.tolist(), strict=True)
    return [Frame(*row) for row in rows]
