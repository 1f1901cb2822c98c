"""A clip as a few pictures: what hashes, models of pictures and people are shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mindvl_data.vision.header import MAX_IMAGE_PIXELS
from mindvl_data.vision.pixels import load_rgb
from mindvl_data.vision.video.clip import frames_of
from mindvl_data.vision.video.container import PREFIX_BYTES, container_of
from mindvl_data.vision.video.frame import Frame
from mindvl_data.vision.video.probe import probe
from mindvl_data.vision.video.reading import read_frames

SAMPLED: Final = 4


def evenly(frames: int, count: int = SAMPLED) -> NDArray[np.int64]:
    """Numbers of at most `count` frames, from the middles of as many equal parts of a clip: int64 ascending."""
    middles = (np.arange(count) * 2 + 1) * frames // (2 * count)
    return np.unique(middles.astype(np.int64))


def pictures(
    data: bytes | memoryview, frames: Sequence[Frame], max_image_pixels: int = MAX_IMAGE_PIXELS
) -> list[Image.Image]:
    """Frames of a clip as RGB. Raises as `read_frames` does."""
    return [_picture(pixels) for pixels in read_frames(data, frames, max_image_pixels)]


def _picture(pixels: NDArray[np.uint32]) -> Image.Image:
    stored = np.ascontiguousarray(pixels).view(np.uint8).reshape(*pixels.shape, 4)
    return Image.fromarray(np.ascontiguousarray(stored[:, :, :3]))


def mosaic(frames: Sequence[Image.Image]) -> Image.Image:
    """Pictures of a clip two in a row, each as large as the first: alike for clips that look alike throughout."""
    width, height = frames[0].size
    columns = min(2, len(frames))
    whole = Image.new("RGB", (width * columns, height * -(-len(frames) // columns)))
    for place, frame in enumerate(frames):
        whole.paste(frame.resize((width, height)), (place % columns * width, place // columns * height))
    return whole


def strip(frames: Sequence[Image.Image], height: int) -> Image.Image:
    """Pictures side by side, each so high."""
    small = [frame.resize((max(1, frame.width * height // frame.height), height)) for frame in frames]
    whole = Image.new("RGB", (sum(frame.width for frame in small), height))
    left = 0
    for frame in small:
        whole.paste(frame, (left, 0))
        left += frame.width
    return whole


def is_clip(data: bytes | memoryview) -> bool:
    """Whether bytes are a clip in a container; an animation is a picture."""
    return container_of(bytes(data[:PREFIX_BYTES])) not in (None, "gif")


def load_shown(
    data: bytes | memoryview, height: int, max_image_pixels: int = MAX_IMAGE_PIXELS, at_least: int | None = None
) -> Image.Image:
    """A picture as `load_rgb` gives it, or a strip of a few frames of a clip, so high; of a row of pictures the first.

    Raises:
        BadImage: it cannot be decoded.
        NoVideoSupportError: it is a clip, and PyAV is not installed.
    """
    if not is_clip(data):
        return load_rgb(data, max_image_pixels, at_least)
    header = probe(data, max_image_pixels)
    return strip(pictures(data, frames_of(header, evenly(header.frames)), max_image_pixels), height)
