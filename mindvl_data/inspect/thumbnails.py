"""Pictures on a terminal that shows 24-bit colours: a character is two pixels, one above the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.text import Text

from mindvl_data.errors import UserError
from mindvl_data.media import MediaReader
from mindvl_data.vision import BadImage
from mindvl_data.vision.video.sampled import load_shown

UPPER_HALF = "▀"
# A character is about twice as high as it is wide, so that its two pixels are squares.
CELLS_WIDE, CELLS_HIGH = 64, 16


def can_show(console: Console) -> bool:
    """Whether a person looks on, at a terminal that says (COLORTERM) that it has 24-bit colours."""
    return console.file.isatty() and console.color_system == "truecolor" and not console.no_color


def thumbnail(image: Mapping[str, Any], media: MediaReader) -> Text:
    """A picture, or a strip of frames of a clip; or why there is none.

    Args:
        image: `uri`, `offset` and `size`, where it lies.
        media: reads it.
    """
    try:
        data = media.view(image["uri"], image["offset"], image["size"], None)
        return cells(load_shown(data, 2 * CELLS_HIGH, at_least=4 * CELLS_HIGH))
    except (BadImage, UserError) as error:
        return Text(f"not shown: {error}", style="dim")


def cells(picture: Image.Image) -> Text:
    """An RGB picture, reduced to fit, as lines of half blocks."""
    small = picture.copy()
    small.thumbnail((CELLS_WIDE, 2 * CELLS_HIGH), Image.Resampling.BICUBIC)
    pixels = np.asarray(small)
    # Below an odd last line there is black.
    pixels = np.pad(pixels, ((0, len(pixels) % 2), (0, 0), (0, 0)))
    lines = [
        Text.assemble(*((UPPER_HALF, f"{_rgb(above)} on {_rgb(below)}") for above, below in zip(*pair, strict=True)))
        for pair in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True)
    ]
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _rgb(pixel: list[int]) -> str:
    return f"rgb({','.join(map(str, pixel))})"
