"""Patches of a pack's media, pictures and clips alike: one path from pixels to patches.

Entries in a row that share one clip (Qwen3-VL has one for each pair of frames) are decoded in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.header import MAX_IMAGE_PIXELS
from mindvl_data.vision.normalisation import CLIP, Normalisation
from mindvl_data.vision.pixels import decode, frame_levels, patchify, resized_rgb, uint8_patches
from mindvl_data.vision.video.frame import Frame
from mindvl_data.vision.video.reading import read_frames
from mindvl_data.vision.video.rule import TEMPORAL_PATCH


class Medium(Protocol):
    """What `shards.PackImage` has: the bytes of a picture or a clip, its grid in patches, the clip's frames."""

    @property
    def data(self) -> bytes | memoryview | None: ...
    @property
    def grid(self) -> tuple[int, int, int]: ...
    @property
    def frames(self) -> tuple[Frame, ...]: ...


def media_patches(
    media: Sequence[Medium],
    patch: int = 14,
    merge: int = 2,
    normalisation: Normalisation = CLIP,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
) -> Iterator[NDArray[np.float32]]:
    """Patches of each medium in order: float32 [t·h·w, 3·2·patch·patch].

    Lines run over (t, h / merge, w / merge, merge, merge), a line is (channel, frame, y, x) flattened: of a picture
    the one frame doubled, of a clip two frames.

    Raises:
        BadImage: the next medium cannot be decoded.
        NoVideoSupportError: it is a clip in a container, and PyAV is not installed.
    """
    for run in _runs(media):
        if run[0].frames:
            pairs = _pairs(run, patch, max_image_pixels)
            yield from _joined(run, (patchify(pair, patch, merge, normalisation) for pair in pairs))
        else:
            _, height, width = run[0].grid
            yield decode(run[0].data or b"", height, width, patch, merge, max_image_pixels, normalisation)


def media_levels(
    media: Sequence[Medium], patch: int = 14, merge: int = 2, max_image_pixels: int = MAX_IMAGE_PIXELS
) -> Iterator[NDArray[np.uint8]]:
    """`media_patches` before they are normalised: uint8 [t·h·w, F·patch·patch·3], F 1 of a picture and 2 of a clip.

    A line is (frame, y, x, channel) flattened. Raises as `media_patches` does.
    """
    for run in _runs(media):
        if run[0].frames:
            pairs = _pairs(run, patch, max_image_pixels)
            yield from _joined(run, (_pair_levels(pair, patch, merge) for pair in pairs))
        else:
            _, height, width = run[0].grid
            yield uint8_patches(run[0].data or b"", height, width, patch, merge, max_image_pixels)


def _pair_levels(pair: NDArray[np.uint8], patch: int, merge: int) -> NDArray[np.uint8]:
    return np.concatenate([frame_levels(pixels, patch, merge) for pixels in pair], axis=1)


def _runs(media: Sequence[Medium]) -> Iterator[list[Medium]]:
    """Pictures alone, and together what lies in a row of one clip."""
    numbered = enumerate(media)
    for _, run in groupby(numbered, lambda item: id(item[1].data) if item[1].frames else -1 - item[0]):
        yield [medium for _, medium in run]


def _pairs(run: Sequence[Medium], patch: int, max_image_pixels: int) -> Iterator[NDArray[np.uint8]]:
    """The frames of a clip's media two by two, resized: levels [2, height, width, 3]."""
    frames = [frame for medium in run for frame in medium.frames]
    grids = [medium.grid for medium in run for _ in medium.frames]
    pair, before = list[NDArray[np.uint8]](), None
    for picture, (_, height, width) in zip(
        read_frames(run[0].data or b"", frames, max_image_pixels), grids, strict=True
    ):
        again = bool(pair) and picture is before
        pair.append(pair[-1] if again else resized_rgb(picture, height * patch, width * patch))
        before = picture
        if len(pair) == TEMPORAL_PATCH:
            yield np.stack(pair)
            pair = []


def _joined(run: Sequence[Medium], pairs: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The patches of a clip's pairs, put together for each medium."""
    for medium in run:
        yield np.concatenate([next(pairs) for _ in range(medium.grid[0])])
