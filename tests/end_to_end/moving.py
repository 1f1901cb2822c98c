"""Drawings that move: a shape crosses the picture again and again, on one track after another, always the same way.

Whichever way it goes, a clip shows it once at every place, so that its frames tell the direction by their order and by
nothing else: who sees them in any other order is right as often as the answers' number says.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw

from tests.end_to_end.drawings import COLOURS, PAPER, PATCH, SHAPES, _shape

DIRECTIONS = ("right", "left", "down", "up")
QUESTIONS = {"colour": "Colour?", "direction": "Goes?"}
KINDS = tuple(QUESTIONS)
# Places on a side, a patch each.
TRACKS = 4
SIDE = TRACKS * PATCH
RADIUS = 6
RATE = 8
CODEC, PIXELS, SUFFIX = "mjpeg", "yuvj420p", "avi"


@dataclass(frozen=True)
class Moving:
    """What moves, and where; `seed` decides the order of the tracks and of the questions."""

    colour: str
    shape: str
    direction: str
    seed: int

    @property
    def combination(self) -> tuple[int, int, int]:
        return list(COLOURS).index(self.colour), SHAPES.index(self.shape), DIRECTIONS.index(self.direction)


def held_out(moving: Moving) -> bool:
    """A fifth of the combinations: no training clip has one of them."""
    return sum(moving.combination) % 5 == 0


def movings(number: int, seed: int) -> list[Moving]:
    """All combinations in a drawn order, over and over, so that every answer is equally frequent."""
    generator = np.random.default_rng(seed)
    combinations = list(product(COLOURS, SHAPES, DIRECTIONS))
    rounds = [generator.permutation(len(combinations)) for _ in range(-(-number // len(combinations)))]
    chosen = [combinations[index] for order in rounds for index in order]
    return [Moving(*each, seed=int(generator.integers(2**31))) for each in chosen[:number]]


def places(moving: Moving) -> list[tuple[int, int]]:
    """Column and row of the shape in every frame."""
    generator = np.random.default_rng(moving.seed)
    along = range(TRACKS) if moving.direction in ("right", "down") else range(TRACKS - 1, -1, -1)
    steps = [(step, track) for track in generator.permutation(TRACKS).tolist() for step in along]
    return steps if moving.direction in ("right", "left") else [(track, step) for step, track in steps]


def frames(moving: Moving) -> list[Image.Image]:
    """The pictures of a clip."""
    drawn = []
    for column, row in places(moving):
        x, y = (column + 0.5) * PATCH, (row + 0.5) * PATCH
        image = Image.new("RGB", (SIDE, SIDE), PAPER)
        _shape(ImageDraw.Draw(image), moving.shape, x, y, RADIUS, COLOURS[moving.colour])
        drawn.append(image)
    return drawn


def film(pictures: Sequence[Image.Image], path: Path) -> None:
    """Writes a clip."""
    with av.open(path, "w") as output:
        stream: Any = output.add_stream(CODEC, rate=RATE, options={"qmin": "2", "qmax": "2"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, PIXELS
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def conversation(moving: Moving, kinds: Sequence[str] = KINDS) -> list[dict[str, str]]:
    """Questions and answers in LLaVA's form; the clip stands before the first question."""
    order = np.random.default_rng(moving.seed + 1).permutation(len(kinds)).tolist()
    turns = []
    for kind in (kinds[index] for index in order):
        turns += [{"from": "human", "value": QUESTIONS[kind]}, {"from": "gpt", "value": getattr(moving, kind)}]
    turns[0]["value"] = "<video>\n" + turns[0]["value"]
    return turns


def write(folder: Path, number: int, seed: int) -> None:
    """Clips, and beside them a LLaVA file for each use: questions, and what was held out.

    `shuffled-<kind>.json` is `heldout-<kind>.json` with every clip's frames in a drawn order.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    everything = list(enumerate(movings(number, seed)))
    tested = [(index, moving) for index, moving in everything if held_out(moving)]
    for index, moving in everything:
        film(frames(moving), folder / f"{index}.{SUFFIX}")
    for index, moving in tested:
        pictures = frames(moving)
        film([pictures[place] for place in generator.permutation(len(pictures))], folder / f"shuffled-{index}.{SUFFIX}")
    trained = [(f"{index}", conversation(moving)) for index, moving in everything if not held_out(moving)]
    _write(folder / "questions.json", trained)
    for kind in KINDS:
        asked = [(f"{index}", conversation(moving, [kind])) for index, moving in tested]
        _write(folder / f"heldout-{kind}.json", asked)
        _write(folder / f"shuffled-{kind}.json", [(f"shuffled-{name}", turns) for name, turns in asked])


def _write(path: Path, samples: Sequence[tuple[str, list[dict[str, str]]]]) -> None:
    lines = [
        {"id": str(index), "video": f"{name}.{SUFFIX}", "conversations": turns}
        for index, (name, turns) in enumerate(samples)
    ]
    path.write_text(json.dumps(lines))
