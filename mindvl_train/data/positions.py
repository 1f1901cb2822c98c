"""The positions of tokens in their segments: along the text, or in time, height and width.

Both restart at 0 in every segment.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from mindvl_train.data.patches import Grid
from mindvl_train.kernels.segments import Segments


def text_positions(segments: Segments) -> NDArray[np.int64]:
    """[T]: 0, 1, 2 … in every segment."""
    return _restarting(np.arange(segments.cu_seqlens[-1]), segments)


def multimodal_positions(
    segments: Segments, starts: Sequence[int], grids: Sequence[Grid], merge: int, intervals: Sequence[float] = ()
) -> NDArray[np.int64]:
    """[3, T]: time, height and width (the rotary positions of Qwen2-VL, arXiv 2409.12191, 2.1, and for the time of
    videos those of Qwen2.5-VL, arXiv 2502.13923, 2.1.2).

    Text moves on all three axes together. The tokens of an image or video stand at its beginning, each moved by its
    place in the merged grid, in time by so many positions a group of frames. What follows begins after the larger of
    height and width, however long a video lasts, as transformers computes it from version 5 on (`get_rope_index`;
    before, it began after the largest of all three).

    Args:
        segments: of the token stream.
        starts: the first placeholder of every image, in the stream.
        grids: of the images, in patches before the merge.
        merge: patches on a side of the square that becomes one token.
        intervals: positions from one group of frames to the next, for every image; none: 1 for all. Products are
            rounded to float32 and down to whole numbers.
    """
    steps = np.ones(segments.cu_seqlens[-1], np.int64)
    places = np.zeros((3, len(steps)), np.int64)
    for start, (frames, height, width), interval in zip(starts, grids, intervals or [1.0] * len(grids), strict=True):
        merged = (frames, height // merge, width // merge)
        stop = start + prod(merged)
        steps[start:stop] = 0
        steps[stop - 1] = max(merged[1:])
        of_grid = np.indices(merged).reshape(3, -1)
        of_grid[0] = of_grid[0].astype(np.float32) * np.float32(interval)
        places[:, start:stop] = of_grid
    return _restarting(np.cumsum(steps) - steps, segments) + places


def _restarting(positions: NDArray[np.int64], segments: Segments) -> NDArray[np.int64]:
    """[T] less what each segment begins with."""
    return positions - np.repeat(positions[np.array(segments.cu_seqlens[:-1], np.int64)], segments.lengths)
