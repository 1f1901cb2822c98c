"""Which frames of a clip a family looks at, and at what size: the rules published with Qwen2.5-VL and Qwen3-VL.

Both are those of transformers' video processors (`Qwen2VLVideoProcessor`, `Qwen3VLVideoProcessor`), so that the same
clip has the same frames, sizes and tokens here and there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mindvl_data.vision.aspect import check_aspect

TEMPORAL_PATCH: Final = 2

Size = tuple[int, int]  # width and height in pixels


@dataclass(frozen=True)
class VideoRule:
    """What a family does to a clip.

    Attributes:
        family: a name in FAMILIES.
        fps: frames looked at a second.
        frames: so many instead, whatever the duration.
        min_frames, max_frames: bounds on what `fps` gives.
        min_pixels, max_pixels: bounds after the resize, on a frame (qwen2-vl) or on all of them (qwen3-vl).
        total_pixels: what all frames share where that leaves each less than `max_pixels` (qwen2-vl; two frames count
            as one); None: no such bound.
        frame_pixels: what one frame has at most (qwen3-vl); None: no such bound.
        jpeg: the quality of chosen frames that were encoded anew, resized, in the clip's place; None: they were not.
        fit_tokens: a sample longer than so many tokens has fewer frames of its clips looked at; None: no such bound.
    """

    family: str
    fps: float = 2.0
    frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    total_pixels: int | None = None
    frame_pixels: int | None = None
    fit_tokens: int | None = None
    jpeg: int | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> VideoRule:
        """The inverse of `described`."""
        return cls(**described)

    def described(self) -> dict[str, Any]:
        """The rule for a manifest: what it does not bound is left out."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def chosen(self, frames: int, rate: float) -> NDArray[np.int64]:
        """Which of a clip's frames are looked at, ascending: int64, at least one of `frames` at `rate` a second."""
        return FAMILIES[self.family].chosen(self, frames, rate)

    def resized(self, frames: int, width: int, height: int, factor: int) -> Size:
        """What so many frames of a size are resized to, in multiples of `factor`. Raises BadImage `aspect_ratio`."""
        return FAMILIES[self.family].resized(self, frames, width, height, factor)

    @property
    def spans(self) -> bool:
        """Whether every pair of frames is an image of its own among the tokens, behind its time as text."""
        return FAMILIES[self.family].spans


class Family(NamedTuple):
    """A row of FAMILIES: functions of a rule, and how a clip stands among the tokens."""

    chosen: Callable[[VideoRule, int, float], NDArray[np.int64]]
    resized: Callable[[VideoRule, int, int, int, int], Size]
    spans: bool


def _chosen_qwen2(rule: VideoRule, frames: int, rate: float) -> NDArray[np.int64]:
    """`Qwen2VLVideoProcessor.sample_frames`: an even number, in steps of frames / number from the first on."""
    pairs = TEMPORAL_PATCH
    if rule.frames is not None:
        number = min(round(rule.frames / pairs) * pairs, frames)
    else:
        most = min(rule.max_frames, frames) // pairs * pairs
        number = math.floor(min(max(frames / rate * rule.fps, rule.min_frames), most, frames) / pairs) * pairs
    if number < pairs:
        return np.zeros(1, np.int64)  # a clip of one frame, which the published rule refuses
    # torch.arange there: float32, which decides where a step ends in a whole number.
    chosen = np.arange(0, frames, frames / number).astype(np.float32).astype(np.int64)
    # Rounding may bring it one step further than there are frames.
    return chosen[chosen < frames]


def _resized_qwen2(rule: VideoRule, frames: int, width: int, height: int, factor: int) -> Size:
    """`Qwen2VLVideoProcessor.resize`: each frame like a picture, and all within `total_pixels`."""
    most = rule.max_pixels
    if rule.total_pixels is not None:
        most = max(min(most, rule.total_pixels * TEMPORAL_PATCH // frames), int(rule.min_pixels * 1.05))
    return _within(1, 1, width, height, factor, rule.min_pixels, most)


def _chosen_qwen3(rule: VideoRule, frames: int, rate: float) -> NDArray[np.int64]:
    """`Qwen3VLVideoProcessor.sample_frames`: evenly from the first frame to the last."""
    number = rule.frames
    if number is None:
        number = min(max(int(frames / rate * rule.fps), rule.min_frames), rule.max_frames)
    return np.linspace(0, frames - 1, max(1, min(number, frames))).round().astype(np.int64)


def _resized_qwen3(rule: VideoRule, frames: int, width: int, height: int, factor: int) -> Size:
    """`Qwen3VLVideoProcessor.resize` and its `smart_resize`: the pixels of all frames are within the bounds."""
    frames = max(frames, TEMPORAL_PATCH)
    most = rule.max_pixels
    if rule.frame_pixels is not None:
        share = max(min(rule.frame_pixels, most // frames), int(rule.min_pixels * 1.05))
        most = share * frames
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        width, height = int(width * scale), int(height * scale)
    counted = round(frames / TEMPORAL_PATCH) * TEMPORAL_PATCH
    return _within(frames, counted, width, height, factor, rule.min_pixels, most)


def _within(frames: int, counted: int, width: int, height: int, factor: int, least: int, most: int) -> Size:
    """Sides in multiples of `factor` such that `counted` frames have pixels within bounds (halves round to even)."""
    check_aspect(width, height)
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    if counted * high * wide > most:
        shrink = math.sqrt(frames * height * width / most)
        high = max(factor, math.floor(height / shrink / factor) * factor)
        wide = max(factor, math.floor(width / shrink / factor) * factor)
    elif counted * high * wide < least:
        grow = math.sqrt(least / (frames * height * width))
        high = math.ceil(height * grow / factor) * factor
        wide = math.ceil(width * grow / factor) * factor
    return wide, high


FAMILIES: Final[dict[str, Family]] = {
    "qwen2-vl": Family(_chosen_qwen2, _resized_qwen2, spans=False),
    "qwen3-vl": Family(_chosen_qwen3, _resized_qwen3, spans=True),
}

# The pixels of the published processors. Qwen2.5-VL's total is nine tenths of 128,000 tokens (`cap_pixels_per_frame`).
QWEN2_VIDEO: Final = VideoRule("qwen2-vl", total_pixels=int(128_000 * 28 * 28 * 0.9))
QWEN3_VIDEO: Final = VideoRule("qwen3-vl", min_pixels=128 * 32 * 32, max_pixels=768 * 32 * 32)


def pair_times(times: Sequence[float]) -> list[float]:
    """Of each pair of frames the mean of their times in seconds; an odd last frame is a pair with itself."""
    padded = [*times, *times[-1:]] if len(times) % TEMPORAL_PATCH else list(times)
    return [(first + second) / TEMPORAL_PATCH for first, second in zip(padded[::2], padded[1::2], strict=True)]


def seconds_per_grid(chosen: int, frames: int, rate: float) -> float:
    """Seconds from one pair of frames to the next: Qwen2.5-VL's `second_per_grid_ts` (arXiv 2502.13923, 2.1.3)."""
    return TEMPORAL_PATCH / (chosen / frames * rate)
