"""A picture or a clip as it stands in a prompt: its size and frames by the rules that a build goes by."""

from typing import Any

from mindvl_data import vision
from mindvl_data.shards import PackImage
from mindvl_data.vision.resize import QWEN2_VL
from mindvl_data.vision.video.clip import frames_of
from mindvl_data.vision.video.probe import probe
from mindvl_data.vision.video.rule import TEMPORAL_PATCH, pair_times, seconds_per_grid
from mindvl_train.answers.opened import Opened
from mindvl_train.weights.processing import of_published
from mindvl_train.weights.published.processor import video_rule
from mindvl_train.weights.published.videos import default_rule, published_rule

# Pieces of a prompt: text, and media whose place among the tokens is not known yet.
Piece = str | PackImage


def picture(opened: Opened, data: bytes) -> list[Piece]:
    """A picture of the size that the model was trained on. Raises BadImage."""
    bounds = opened.data.get("resolution") or of_published(*opened.homes).get("resolution") or QWEN2_VL.described()
    header = vision.read_header(data)
    resolution = vision.Resolution(opened.layout.patch, opened.layout.merge, bounds["min_pixels"], bounds["max_pixels"])
    return [PackImage(0, vision.patch_grid(header.width, header.height, resolution), data)]


def clip(opened: Opened, data: bytes) -> list[Piece]:
    """The frames of a clip that the model's family looks at, with their times where it reads them.

    Raises:
        BadImage: the clip cannot be read.
        NoVideoSupportError: PyAV is not installed.
    """
    model: Any = opened.model
    tower, layout = model.vision.config, opened.layout
    rule = video_rule(opened.data) or published_rule(opened.homes, tower) or default_rule(tower)
    header = probe(data)
    chosen = rule.chosen(header.frames, header.rate)
    width, height = rule.resized(len(chosen), header.width, header.height, layout.patch * layout.merge)
    frames = frames_of(header, chosen)
    times = pair_times([frame.time for frame in frames])
    frames += frames[-1:] * (len(frames) % TEMPORAL_PATCH)
    grid = (len(times), height // layout.patch, width // layout.patch)
    if not rule.spans:
        seconds = seconds_per_grid(len(chosen), header.frames, header.rate)
        return [PackImage(0, grid, data, frames=tuple(frames), seconds_per_grid=seconds)]
    pieces: list[Piece] = []
    for pair, time in enumerate(times):
        shown = tuple(frames[2 * pair : 2 * pair + 2])
        pieces += [f"<{time:.1f} seconds>", PackImage(0, (1, *grid[1:]), data, frames=shown)]
    return pieces
