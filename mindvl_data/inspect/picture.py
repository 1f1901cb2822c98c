"""A picture of packs for a terminal: one bar a pack, its segments in the colours of their sources.

Image and text are told apart by density, and a segment begins with the letter of its source, so that the picture
can be read without colours too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from mindvl_data.shards import Pack

COLOURS = ("cyan", "yellow", "magenta", "green", "blue", "red", "bright_cyan", "bright_magenta")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
IMAGE, TEXT, PADDING = "█", "▒", "·"

# Of each source: its letter and its colour.
Styles = dict[str, tuple[str, str]]


def picture(packs: Sequence[Pack], width: int = 96) -> RenderableType:
    """One line a pack, `width` cells wide: a letter where a segment begins, █ image, ▒ text, · padding."""
    sources = sorted({source for pack in packs for source in pack.sources})
    styles = {source: (LETTERS[i % len(LETTERS)], COLOURS[i % len(COLOURS)]) for i, source in enumerate(sources)}
    digits = max((len(str(pack.index)) for pack in packs), default=1)
    lines = [Text.assemble((f"{pack.index:>{digits}} ", "dim"), _bar(pack, width, styles)) for pack in packs]
    return Group(_legend(packs, styles, width), *lines)


def _legend(packs: Sequence[Pack], styles: Styles, width: int) -> Text:
    seq_len = packs[0].seq_len if packs else 0
    legend = Text.assemble(
        f"{IMAGE} image  {TEXT} text  {PADDING} padding, {seq_len / width:,.0f} tokens a cell; a segment begins:"
    )
    for source, (letter, colour) in styles.items():
        segments = sum(pack.sources.count(source) for pack in packs)
        legend.append(f"  {letter} {source} ({segments})", style=colour)
    return legend


def _bar(pack: Pack, width: int, styles: Styles) -> Text:
    """The cell at x shows the token at its middle: which segment that is in, and whether it is an image's."""
    middles = (np.arange(width) * 2 + 1) * pack.seq_len // (2 * width)
    segment = np.searchsorted(pack.cu_seqlens, middles, side="right") - 1
    image = _in_image(pack)[middles]
    bar = Text()
    for x in range(width):
        if middles[x] >= pack.num_tokens:
            bar.append(PADDING, style="dim")
            continue
        letter, colour = styles[pack.sources[segment[x]]]
        begins = x == 0 or segment[x] != segment[x - 1]
        bar.append(letter if begins else IMAGE if image[x] else TEXT, style=colour)
    return bar


def _in_image(pack: Pack) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which tokens are an image's, bool [seq_len].

    A run ends where the next image or the text begins: the placeholder is the one token that fills it.
    """
    inside = np.zeros(pack.seq_len, bool)
    for image in pack.images:
        after = pack.tokens[image.start :] != pack.tokens[image.start]
        stop = image.start + (int(np.argmax(after)) if after.any() else len(after))
        inside[image.start : stop] = True
    return inside
