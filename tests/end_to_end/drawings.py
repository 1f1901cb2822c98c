"""Drawings whose answers only the picture holds: shapes of one colour and kind, so many, in one part of it.

Every drawing is asked four questions in one conversation, in a drawn order, and every answer is equally frequent:
who does not look is right as often as the answers' number says.
"""

import json
from collections.abc import Iterator, Sequence
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
PLACES = {"left": (0, 0.5), "right": (1, 0.5), "top": (0.5, 0), "bottom": (0.5, 1), "middle": (0.5, 0.5)}
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
BAND = 6
# Pixels of a side: every drawing has its own, and none is a multiple of the patch by intent.
SIDES = (84, 140)


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
    width, height = (int(side) for side in generator.integers(*SIDES, size=2))
    image = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(image)
    for wall, colour in WALLS.items():
        pen.rectangle(_wall(wall, width, height), fill=colour)
    for x, y in _centres(drawing, width, height, generator):
        _shape(pen, drawing.shape, x, y, 9, COLOURS[drawing.colour])
    return image


def _wall(wall: str, width: int, height: int) -> tuple[int, int, int, int]:
    """Its rectangle: first and last column and row."""
    return {
        "left": (0, 0, BAND, height),
        "right": (width - BAND, 0, width, height),
        "top": (0, 0, width, BAND),
        "bottom": (0, height - BAND, width, height),
    }[wall]


def _centres(drawing: Drawing, width: int, height: int, generator: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Of the shapes: cells of a 3 × 3 grid around the place's own point, which do not touch."""
    across, down = PLACES[drawing.place]
    step = 21
    middle_x = int(step * 1.5 + across * (width - step * 3))
    middle_y = int(step * 1.5 + down * (height - step * 3))
    cells = generator.permutation(9)[: COUNTS.index(drawing.count) + 1]
    for cell in cells.tolist():
        yield middle_x + (cell % 3 - 1) * step, middle_y + (cell // 3 - 1) * step


def _shape(pen: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int, colour: tuple[int, int, int]) -> None:
    match shape:
        case "circle":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
        case "square":
            pen.rectangle((x - r, y - r, x + r, y + r), fill=colour)
        case "triangle":
            pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
        case "bar":
            pen.rectangle((x - r, y - 3, x + r, y + 3), fill=colour)
        case "ring":
            pen.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=4)


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
