"""Where patches lie in their images, and in which order the vision tower takes them.

The tower may attend within windows in most of its layers. Their patches are made neighbours here, on the host
and before the tower, so that a window is a segment like any other: the tower moves nothing, and the image
placeholders follow the patches.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mindvl_train.kernels.segments import Segments

# Frames, rows and columns of an image in patches, before the merge.
Grid = tuple[int, int, int]


def patch_positions(grids: Sequence[Grid], merge: int) -> NDArray[np.int64]:
    """[N, 4]: row and column of every patch, and the rows and columns of its frame, in merge-block order
    (h / merge, w / merge, merge, merge)."""
    return np.concatenate([np.tile(_frame_positions(h, w, merge), (t, 1)) for t, h, w in grids])


def _frame_positions(height: int, width: int, merge: int) -> NDArray[np.int64]:
    rows_and_columns = np.indices((height, width), dtype=np.int64).reshape(
        2, height // merge, merge, width // merge, merge
    )
    places = rows_and_columns.transpose(1, 3, 2, 4, 0).reshape(-1, 2)
    return np.concatenate([places, np.broadcast_to([height, width], places.shape)], axis=1)


def frame_segments(grids: Sequence[Grid]) -> Segments:
    """Every frame of every image, in patches."""
    return Segments.of(h * w for t, h, w in grids for _ in range(t))


def window_order(grids: Sequence[Grid], merge: int, window: int) -> tuple[NDArray[np.int64], Segments]:
    """Puts the merge blocks of every window beside each other (Qwen2.5-VL, arXiv 2502.13923, 2.1.1).

    Windows tile every frame from its upper left corner, row after row; those at the right and lower edge are
    as small as the frame leaves them.

    Args:
        grids: of the images.
        merge: patches on a side of a merge block.
        window: merge blocks on a side of a window.

    Returns:
        [N / merge²] the merge block that comes at each place, and the windows' segments in patches.
    """
    places, lengths, start = [], [], 0
    for frames, height, width in grids:
        order, sizes = _frame_windows(height // merge, width // merge, window)
        for _ in range(frames):
            places.append(order + start)
            lengths += (sizes * merge**2).tolist()
            start += len(order)
    return np.concatenate(places), Segments.of(lengths)


def _frame_windows(height: int, width: int, window: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The blocks of one frame by window, and the number of blocks in each window."""
    rows, columns = np.indices((height, width))
    number = (rows // window * -(-width // window) + columns // window).ravel()
    return np.argsort(number, kind="stable"), np.bincount(number)
