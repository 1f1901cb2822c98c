"""Drawings whose answers only the picture holds: shapes of one colour and kind, so many, in one part of it.

Every drawing is asked four questions in one conversation, in a drawn order, and every answer is equally frequent:
who does not look is right as often as the answers' number says.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 20, 30),
    "green": (20, 150, 40),
    "blue": (30, 60, 220),
    "yellow": (240, 220, 30),
    "purple": (130, 30, 160),
    "orange": (250, 140, 10),
    "black": (10, 10, 10),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "bar", "ring")
COUNTS = ("one", "two", "three", "four", "five")
PLACES = ("left", "right", "top", "bottom", "middle")
QUESTIONS = {
    "colour": "Colour?",
    "shape": "Shape?",
    "count": "Count?",
    "place": "Place?",
}
KINDS = tuple(QUESTIONS)
# The mean that the published processor subtracts: paper is zero to the model.
PAPER = (123, 117, 104)
# A room: without its walls nothing but distances, of pictures of all sizes, would tell the places apart.
WALLS = {"left": (90, 60, 40), "right": (60, 100, 110), "top": (170, 170, 200), "bottom": (70, 70, 60)}
BAND = 3
# Patches of a side, an even number, because two by two become a token; and pixels that a side has more or less, so that
# the processor resizes every picture. A shape fills about a patch.
PATCHES = (6, 8)
PATCH, OFF = 14, 5
# Cells of a place: two deep from its wall, three along it, so that no cell belongs to two places.
DEEP, ALONG = 2, 3


@dataclass(frozen=True)
class Drawing:
    """What is drawn; `seed` decides sizes, places within the part, and the order of the questions."""

    colour: str
    shape: str
    count: str
    place: str
    seed: int

    @property
    def combination(self) -> tuple[int, int, int]:
        return list(COLOURS).index(self.colour), SHAPES.index(self.shape), COUNTS.index(self.count)


def held_out(drawing: Drawing) -> bool:
    """A fifth of the combinations of colour, shape and count: no training drawing has one of them."""
    return sum(drawing.combination) % 5 == 0


def drawings(number: int, seed: int) -> list[Drawing]:
    """All combinations in a drawn order, over and over, so that every answer is equally frequent."""
    generator = np.random.default_rng(seed)
    combinations = list(product(COLOURS, SHAPES, COUNTS, PLACES))
    chosen = [
        combinations[index]
        for _ in range(-(-number // len(combinations)))
        for index in generator.permutation(len(combinations))
    ]
    return [Drawing(*each, seed=int(generator.integers(2**31))) for each in chosen[:number]]


def draw(drawing: Drawing) -> Image.Image:
    """The picture, of a size of its own."""
    generator = np.random.default_rng(drawing.seed)
    cells = generator.choice(PATCHES, size=2)
    width, height = (int(side) for side in cells * PATCH + generator.integers(-OFF, OFF + 1, size=2))
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    for wall, colour in WALLS.items():
        pen.rectangle(_wall(wall, width, height), fill=colour)
    free = _cells(drawing.place, *cells.tolist())
    for chosen in generator.permutation(len(free))[: COUNTS.index(drawing.count) + 1].tolist():
        column, row = free[chosen]
        x, y = (column + 0.5) * width / cells[0], (row + 0.5) * height / cells[1]
        _shape(pen, drawing.shape, x, y, 6, COLOURS[drawing.colour])
    return image


def _wall(wall: str, width: int, height: int) -> tuple[int, int, int, int]:
    """Its rectangle: first and last column and row."""
    return {
        "left": (0, 0, BAND, height),
        "right": (width - BAND, 0, width, height),
        "top": (0, 0, width, BAND),
        "bottom": (0, height - BAND, width, height),
    }[wall]


def _cells(place: str, columns: int, rows: int) -> list[tuple[int, int]]:
    """Column and row of the six cells of a place."""
    across, along = (columns - ALONG) // 2, (rows - ALONG) // 2
    middle = (columns - DEEP) // 2
    begins, size = {
        "left": ((0, along), (DEEP, ALONG)),
        "right": ((columns - DEEP, along), (DEEP, ALONG)),
        "top": ((across, 0), (ALONG, DEEP)),
        "bottom": ((across, rows - DEEP), (ALONG, DEEP)),
        "middle": ((middle, along), (DEEP, ALONG)),
    }[place]
    return [(begins[0] + column, begins[1] + row) for column in range(size[0]) for row in range(size[1])]


def _shape(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: int, colour: tuple[int, int, int]) -> None:
    match shape:
        case "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        case "square":
            pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        case "triangle":
            pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
        case "bar":
            pen.rectangle((x - r, y - 2, x + r, y + 2), fill=colour)
        case "ring":
            pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=2)


def conversation(drawing: Drawing, kinds: Sequence[str] = KINDS) -> list[dict[str, str]]:
    """Questions and answers in LLaVA's form; the picture stands before the first question."""
    generator = np.random.default_rng(drawing.seed + 1)
    turns = []
    for index in generator.permutation(len(kinds)).tolist():
        turns.append({"from": "human", "value": QUESTIONS[kinds[index]]})
        turns.append({"from": "gpt", "value": getattr(drawing, kinds[index])})
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    return turns


def caption(drawing: Drawing) -> list[dict[str, str]]:
    """One sentence that says all of it."""
    said = f"{drawing.count} {drawing.colour} {drawing.shape} {drawing.place}"
    return [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": said}]


def write(folder: Path, number: int, seed: int) -> None:
    """Pictures, and beside them a LLaVA file for each use: captions, questions, and what was held out.

    `exchanged-<kind>.json` is `heldout-<kind>.json` with every picture exchanged for another's.
    """
    folder.mkdir(parents=True)
    everything = drawings(number, seed)
    for index, drawing in enumerate(everything):
        draw(drawing).save(folder / f"{index}.png")
    train = [index for index, drawing in enumerate(everything) if not held_out(drawing)]
    tested = [index for index, drawing in enumerate(everything) if held_out(drawing)]
    _write(folder / "captions.json", [(index, caption(everything[index])) for index in train])
    _write(folder / "questions.json", [(index, conversation(everything[index])) for index in train])
    others = _derangement(len(tested), seed)
    for kind in KINDS:
        asked = [conversation(everything[index], [kind]) for index in tested]
        _write(folder / f"heldout-{kind}.json", list(zip(tested, asked, strict=True)))
        _write(folder / f"exchanged-{kind}.json", [(tested[o], turns) for o, turns in zip(others, asked, strict=True)])


def _derangement(number: int, seed: int) -> NDArray[np.int64]:
    """[number] int64: a drawn permutation that leaves nothing in its place."""
    order = np.random.default_rng(seed).permutation(number)
    others = np.empty(number, np.int64)
    others[order] = np.roll(order, 1)
    return others


def _write(path: Path, samples: Sequence[tuple[int, list[dict[str, str]]]]) -> None:
    lines = [
        {"id": str(index), "image": f"{image}.png", "conversations": turns}
        for index, (image, turns) in enumerate(samples)
    ]
    path.write_text(json.dumps(lines))
