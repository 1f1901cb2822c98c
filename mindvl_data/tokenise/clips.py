"""A sample's clips as what stands among its tokens: frames chosen by the family's rule, and places for their pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mindvl_data.tables.schema import Control, Part
from mindvl_data.tables.videos import VideoLine
from mindvl_data.tokenise.tokeniser import VIDEO_PAD
from mindvl_data.vision import BadImage, Frame, Resolution, VideoRule
from mindvl_data.vision.video.rule import TEMPORAL_PATCH, pair_times, seconds_per_grid

VISION = ("<|vision_start|>", "<|vision_end|>")
IMAGE_PAD = "<|image_pad|>"


@dataclass(frozen=True)
class Entry:
    """What one placeholder among a sample's tokens stands for.

    Attributes:
        image: its number among the sample's images.
        grid: (t, h, w) in patches, of a clip; None of a picture, whose grid a stage's bounds decide.
        frames: of a clip the 2 · t frames that are shown.
        seconds: from one pair of frames to the next, where positions look at it.
        shares: whether its clip is that of the entry before.
        own: of frames that were encoded anew, where they lie in the build's file for them: offset, size and SHA-256.
    """

    image: int
    grid: tuple[int, int, int] | None = None
    frames: tuple[Frame, ...] = ()
    seconds: float = 0.0
    shares: bool = False
    own: tuple[int, int, bytes] | None = None


def entries_of(
    number: int, clip: VideoLine, size: tuple[int, int], resolution: Resolution, rule: VideoRule
) -> list[Entry]:
    """The entries of a clip: one, or of a family whose pairs of frames are images of their own one a pair.

    Args:
        number: of the clip among the sample's images.
        clip: what the scan found of it.
        size: its width and height, upright.
        resolution: sides of patches and of what is merged.
        rule: which frames, and at what size.

    Raises:
        BadImage: `aspect_ratio`.
    """
    chosen = rule.chosen(clip.frames, clip.rate)
    width, height = rule.resized(len(chosen), *size, resolution.patch * resolution.merge)
    sides = height // resolution.patch, width // resolution.patch
    frames = clip.chosen(chosen)
    frames += frames[-1:] * (len(frames) % TEMPORAL_PATCH)
    if not rule.spans:
        seconds = seconds_per_grid(len(chosen), clip.frames, clip.rate)
        return [Entry(number, (len(frames) // TEMPORAL_PATCH, *sides), tuple(frames), seconds)]
    pairs = zip(frames[::TEMPORAL_PATCH], frames[1::TEMPORAL_PATCH], strict=True)
    return [Entry(number, (1, *sides), pair, shares=place > 0) for place, pair in enumerate(pairs)]


def medium_entries(number: int, clip: VideoLine | None, size: tuple[int, int], resolution: Resolution) -> list[Entry]:
    """The entries of an image of a sample, a clip or not. Raises BadImage, also where there is no rule for clips."""
    if clip is None:
        return [Entry(number)]
    if resolution.video is None:
        raise BadImage("unsupported_media", "the recipe's processor has no rule for clips")
    return entries_of(number, clip, size, resolution, resolution.video)


def with_clips(parts: Sequence[Part], media: Sequence[list[Entry]], render: str) -> list[Part]:
    """The parts with the tokens of their media written out, a placeholder an entry.

    Args:
        parts: of the sample; a text of None is the place of the next medium.
        media: the entries of each medium, in the order of their places.
        render: `caption` has media before all texts.
    """
    if render == "caption":
        parts = sorted(parts, key=lambda part: part.text is not None)
    waiting, written = iter(media), list[Part]()
    for part in parts:
        if part.text is not None:
            written.append(part)
            continue
        # A line parts the texts of two turns, where turns are not marked; before a medium there is none.
        turn = written[-1].turn if written and render != "chat" else part.turn
        written += _written(part._replace(turn=turn), next(waiting))
    return written


def _written(place: Part, entries: Sequence[Entry]) -> Iterator[Part]:
    spans = len(entries) > 1 or (entries[0].grid is not None and not entries[0].seconds)
    times = [pair_times([frame.time for frame in entry.frames])[0] for entry in entries] if spans else [None]
    for entry, time in zip(entries, times, strict=True):
        if time is not None:
            # As Qwen3-VL's processor writes it (`Qwen3VLProcessor.replace_video_token`).
            yield place._replace(text=f"<{time:.1f} seconds>", loss=False)
        pad = IMAGE_PAD if entry.grid is None else VIDEO_PAD
        for name in (VISION[0], pad, VISION[1]):
            yield Control(place.turn, place.role, place.loss, name, None, place.weight)
