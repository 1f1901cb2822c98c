"""What a render makes of every sample that is built alike: special tokens, and texts with places for a sample's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from mindvl_data.tables.schema import Control, Part
from mindvl_data.tokenise.parts import PartColumns
from mindvl_data.tokenise.render import ChatTemplate, Refused, Render, Stretch


class _Slot(str):
    """Stands for the text of one part while its sample is rendered; `part` is its number in the sample."""

    __slots__ = ("part",)
    part: int

    def __new__(cls, part: int) -> _Slot:
        slot = super().__new__(cls, f"\0text of part {part}\0")
        slot.part = part
        return slot


class Segment(NamedTuple):
    """Text of the template, or where `part` is not None the text of that part; `loss` where it is trained on, and what
    that weighs."""

    text: str
    part: int | None
    loss: bool
    weight: float = 1.0


@dataclass(frozen=True)
class Piece:
    """What stands between two special tokens, or (`special`) the name of one of them.

    weight: of its tokens with loss. reaching: whether a token has loss that only reaches into text that has, not only
    one that starts in it.
    """

    segments: tuple[Segment, ...]
    special: str | None
    loss: bool
    weight: float = 1.0
    reaching: bool = False

    @property
    def mixed(self) -> bool:
        """Whether some of its text is trained on and some is not."""
        return len({segment.loss for segment in self.segments}) > 1


def pieces_of(columns: PartColumns, number: int, render: Render, template: ChatTemplate, loss: str) -> list[Piece]:
    """The pieces of one sample and of all that are built alike, in order."""
    parts = [_with_slot(place, part) for place, part in enumerate(columns.sample(number))]
    return list(_pieces(render(parts, template, loss)))


def _with_slot(place: int, part: Part) -> Part:
    return part if isinstance(part, Control) or not part.text else part._replace(text=_Slot(place))


def _pieces(stretches: Iterable[Stretch]) -> Iterable[Piece]:
    segments: list[Segment] = []
    for text, loss, special, weight in stretches:
        if special:
            yield from _text_piece(segments)
            segments = []
            yield Piece((), text, loss, weight)
        elif isinstance(text, _Slot):
            segments.append(Segment("", text.part, loss, weight))
        elif "\0text of part" in text:
            raise TypeError("a render must give the text of a part as it is: only then is it the same for all alike")
        elif text:
            segments.append(Segment(text, None, loss, weight))
    yield from _text_piece(segments)


def _text_piece(segments: list[Segment]) -> Iterable[Piece]:
    if segments:
        yield text_piece(segments)


def text_piece(segments: Iterable[Segment], reaching: bool = False) -> Piece:
    """Text between two special tokens. Raises Refused where turns of several weights are learnt in it."""
    segments = tuple(segments)
    weights = {segment.weight for segment in segments if segment.loss}
    if len(weights) > 1:
        raise Refused(
            "chat_template",
            "turns of several weights stand in one text: the template has no special token between them",
        )
    return Piece(segments, None, segments[0].loss, max(weights, default=1.0), reaching)
