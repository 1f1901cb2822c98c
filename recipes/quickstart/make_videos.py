"""Writes `data/videos`: drawings that move, h264 in MP4, and the questions about them in LLaVA's form.

    python recipes/quickstart/make_videos.py    (needs the extra [video])

Encoders do not give the same bytes twice: what this wrote once is kept under version control.
"""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw

FOLDER = Path(__file__).parent / "data" / "videos"
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (50, 80, 220)}
SHAPES = ("square", "circle")
# Pixels a frame to the right and down.
DIRECTIONS = {"right": (4, 0), "left": (-4, 0), "down": (0, 4), "up": (0, -4)}
SIDE, RADIUS, RATE, FRAMES = 112, 14, 8, 16


def picture(colour: str, shape: str, direction: str, frame: int) -> Image.Image:
    """One frame: a shape on its way through the middle of a grey square."""
    image = Image.new("RGB", (SIDE, SIDE), (200, 200, 200))
    dx, dy = DIRECTIONS[direction]
    step = frame - FRAMES // 2
    x, y = SIDE // 2 + dx * step, SIDE // 2 + dy * step
    box = (x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)
    pen = ImageDraw.Draw(image)
    (pen.rectangle if shape == "square" else pen.ellipse)(box, fill=COLOURS[colour])
    return image


def write(path: Path, colour: str, shape: str, direction: str) -> None:
    """One clip."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as output:
        stream: Any = output.add_stream("libx264", rate=RATE, options={"preset": "veryslow", "crf": "30"})
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE, "yuv420p"
        for number in range(FRAMES):
            frame = av.VideoFrame.from_image(picture(colour, shape, direction, number))
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    samples = []
    for colour, shape, direction in product(COLOURS, SHAPES, DIRECTIONS):
        name = f"{colour}-{shape}-{direction}"
        write(FOLDER / f"{name}.mp4", colour, shape, direction)
        turns = [
            {"from": "human", "value": "<video>\nWhat moves, and where to?"},
            {"from": "gpt", "value": f"A {colour} {shape} moves {direction}."},
        ]
        samples.append({"id": name, "video": f"{name}.mp4", "conversations": turns})
    (FOLDER / "videos.json").write_text(json.dumps(samples, indent=1) + "\n")


if __name__ == "__main__":
    main()
