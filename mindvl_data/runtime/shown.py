"""Text for a terminal: what comes from data, files or services can command it, unless its control characters go."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mindvl_data.expanded import masked

# C0 but tab and line feed, DEL and C1; and what turns the direction of writing, so that a text looks like another.
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
C0, DEL = 0x20, 0x7F


def cleaned(text: str) -> str:
    """`text` as it may be shown: each control character as its picture (␛, ␇ …) or �, secrets by their names."""
    return CONTROL.sub(_picture, masked(text))


def _picture(match: re.Match[str]) -> str:
    number = ord(match[0])
    return chr(0x2400 + number) if number < C0 else "\u2421" if number == DEL else "\ufffd"


def exact(json_text: str) -> str:
    """JSON that says the same and commands nothing: control characters in it as `\\u…`."""
    return CONTROL.sub(lambda match: match[0] if match[0] == "\r" else f"\\u{ord(match[0]):04x}", json_text)


class SafeConsole(Console):
    """A console that shows every text cleaned, whatever view it is part of."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a view; colours and the like are no part of their texts."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(cleaned(segment.text), segment.style)

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich does; control characters that rich would take out in silence are shown."""
        super().print(*(cleaned(item) if isinstance(item, str) else item for item in objects), **options)
