"""Boxes and points in texts: found, held against their picture, and rewritten as the picture is resized.

    parts ── grounded ──► marks: where coordinates stand, whose picture they are in ── Grounded.at(bounds) ──► parts

Coordinates refer to the picture as shown: upright, after EXIF orientation. Only a source whose recipe says `boxes`
comes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import pyarrow as pa
import regex

from mindvl_data.tables.schema import BOXES, Control, Drop, Part
from mindvl_data.vision import Resolution, smart_resize

if TYPE_CHECKING:
    from mindvl_data.recipe import Boxes

THOUSAND: Final = 1000
# What annotation tools round away at a picture's edge: half a pixel, or half a thousandth.
TOLERANCE: Final = {"pixels": 0.5, "unit": 0.0005, "thousand": 0.5}

# Of a recipe's own pattern on one text.
PATTERN_SECONDS: Final = 5
NUMBER: Final = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
COORDINATES: Final = re.compile(r"[\s\d.,()\[\]eE+-]*")
# No alternative can run over the beginning of the next one, so that any text is searched in linear time.
FOUND: Final = re.compile(
    r"<(?P<tag>box|quad|point|ref)>(?P<inside>[^<]*)</(?P=tag)>"
    r"|<\|(?P<token>box|quad|object_ref)_start\|>(?P<between>[^<]*)<\|(?P=token)_end\|>"
    r"|[\"'](?P<key>bbox|point)_2d[\"']\s*:\s*(?P<value>\[[\s\d.,\[\]eE+-]*\])"
)
KINDS: Final = {"object_ref": "ref", "bbox": "box"}
# How many numbers one of a kind has; a box of two is a point, as ms-swift writes it.
NUMBERS: Final = {"box": 4, "quad": 8, "point": 2}
TOKENS: Final = {"box": "box", "quad": "quad", "ref": "object_ref"}
CONTROL_TOKENS: Final = tuple(f"<|{name}_{end}|>" for name in TOKENS.values() for end in ("start", "end"))


class BadBox(ValueError):  # noqa: N818 - it names what is wrong with the sample, not with the program
    """A box for which its sample is dropped, and why."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.drop = Drop(reason, detail)


class _Mark(NamedTuple):
    """A box, quad, point or ref in a part's text: the whole of it, and what stands inside.

    numbers: (start, stop, value) of each coordinate, x and y alternating. size: of its picture, in pixels.
    tagged: it stands between tags that control tokens can take the place of. picture: its number, where it is said.
    """

    part: int
    kind: str
    whole: tuple[int, int]
    inside: tuple[int, int]
    numbers: tuple[tuple[int, int, float], ...] = ()
    size: tuple[int, int] = (0, 0)
    scale: str = ""
    tagged: bool = False
    picture: int | None = None


class Shape(NamedTuple):
    """A box, quad or point on a picture: x and y alternating, from 0 to 1."""

    picture: int
    kind: str
    points: tuple[float, ...]


@dataclass(frozen=True)
class Grounded:
    """A sample whose texts hold boxes, each found sound."""

    parts: Sequence[Part]
    marks: Sequence[_Mark]
    rule: Boxes

    @property
    def boxes(self) -> int:
        """How many boxes and points there are; names alone are none."""
        return sum(bool(mark.numbers) for mark in self.marks)

    def shapes(self) -> list[Shape]:
        """What would be drawn: each on the picture that is named, or else the last before its text."""
        found = []
        for mark in self.marks:
            if mark.numbers:
                before = sum(part.text is None for part in self.parts[: mark.part])
                extent = _extent(mark.scale, mark.size)
                points = tuple(value / extent[place % 2] for place, (_, _, value) in enumerate(mark.numbers))
                found.append(Shape(max(0, before - 1) if mark.picture is None else mark.picture, mark.kind, points))
        return found

    def at(self, resolution: Resolution) -> list[Part]:
        """The sample as it is trained on when its pictures are resized at these bounds."""
        by_part: dict[int, list[_Mark]] = {}
        for mark in self.marks:
            by_part.setdefault(mark.part, []).append(mark)
        parts: list[Part] = []
        for number, part in enumerate(self.parts):
            parts.extend(self._rewritten(part, by_part[number], resolution) if number in by_part else [part])
        return parts

    def _rewritten(self, part: Part, marks: Sequence[_Mark], resolution: Resolution) -> Iterator[Part]:
        text, done, written = part.text or "", 0, ""
        for mark in marks:
            values = self._values(mark, resolution)
            if self.rule.marks == "text" or not mark.tagged:
                for (start, stop, _), value in zip(mark.numbers, values, strict=True):
                    written += f"{text[done:start]}{value}"
                    done = stop
                continue
            written += text[done : mark.whole[0]]
            if written:
                yield part._replace(text=written)
            yield from _tokens(part, mark, text[slice(*mark.inside)], values)
            done, written = mark.whole[1], ""
        if written + text[done:]:
            yield part._replace(text=written + text[done:])

    def _values(self, mark: _Mark, resolution: Resolution) -> list[int]:
        if not mark.numbers:
            return []
        target = (THOUSAND, THOUSAND) if self.rule.write == "thousand" else smart_resize(*mark.size, resolution)
        extent = _extent(mark.scale, mark.size)
        return [scaled(value, extent[place % 2], target[place % 2]) for place, (_, _, value) in enumerate(mark.numbers)]


def scaled(value: float, extent: float, target: int) -> int:
    """A coordinate of 0..extent as a whole number of 0..target-1.

    The order of the operations and the rounding are those of Qwen2.5-VL's published conversion, so that data
    prepared with it and data prepared here agree to the last number.
    """
    return max(0, min(round(value * (target / extent)), target - 1))


def grounded(
    parts: Sequence[Part], sizes: Sequence[tuple[int, int]], rule: Boxes, objects: str | None = None
) -> Grounded | None:
    """The boxes of a sample, None where its texts hold none.

    Args:
        parts: Of the sample.
        sizes: (width, height) of its images in pixels, upright.
        rule: How boxes are written, and how they shall be.
        objects: Which parts are boxes, as a reader found it beside the texts (see sources.objects); the texts are not
            searched then.

    Raises:
        BadBox: A box is none, or of no image.
    """
    found = _named(parts, objects) if objects else _searched(parts, rule)
    marks = [_placed(mark, image, parts, sizes, rule) for mark, image in found]
    return Grounded(parts, marks, rule) if marks else None


def grounded_lines(
    lines: pa.RecordBatch | pa.Table, samples: Sequence[Sequence[Part]], rule: Boxes | None
) -> Iterator[Grounded | Drop | None]:
    """`grounded` for lines of the samples table (images; BOXES where there is such a column) with these parts.

    A bad box is a Drop. Nothing is looked at where the source has no rule.
    """
    if rule is None:
        yield from [None] * len(samples)
        return
    objects = lines.column(BOXES).to_pylist() if BOXES in lines.schema.names else [None] * len(samples)
    sizes = [[(image["width"], image["height"]) for image in images] for images in lines.column("images").to_pylist()]
    for parts, size, beside in zip(samples, sizes, objects, strict=True):
        try:
            yield grounded(parts, size, rule, beside)
        except BadBox as error:
            yield error.drop


def _named(parts: Sequence[Part], objects: str) -> Iterator[tuple[_Mark, int | None]]:
    for number, kind, image, scale in json.loads(objects):
        text = parts[number].text or ""
        span = (0, len(text))
        numbers = () if kind == "ref" else _numbers(text, span)
        yield _Mark(number, kind, span, span, numbers, scale=scale or "", tagged=True), image


def _searched(parts: Sequence[Part], rule: Boxes) -> Iterator[tuple[_Mark, int | None]]:
    for number, part in enumerate(parts):
        text = "" if part.field else part.text or ""
        if rule.pattern:
            marks = [_own(number, match, inside) for match, inside in _matches(rule.pattern, text)]
        else:
            marks = [mark for match in FOUND.finditer(text) if (mark := _mark(number, match))]
        # A pair of tags around anything else, for example in a question about the format, is text.
        yield from ((mark, None) for mark in marks if mark.numbers or mark.kind == "ref")


def _matches(pattern: str, text: str) -> Iterator[tuple[regex.Match[str], tuple[int, int]]]:
    """Each match of a recipe's own pattern, and where its first group, or all of it, lies.

    Raises:
        BadBox: It takes too long on this text: a pattern can need a time that doubles with every letter.
    """
    compiled = regex.compile(pattern)
    try:
        for match in compiled.finditer(text, timeout=PATTERN_SECONDS):
            yield match, match.span(1 if compiled.groups else 0)
    except TimeoutError as error:
        said = f"boxes.pattern takes more than {PATTERN_SECONDS} s on a text of {len(text)} characters; make it simpler"
        raise BadBox("malformed_record", said) from error


def _mark(number: int, match: re.Match[str]) -> _Mark | None:
    name = match["tag"] or match["token"] or match["key"]
    kind = KINDS.get(name, name)
    inside = match.span("inside" if match["tag"] else "between" if match["token"] else "value")
    if kind == "ref":
        return _Mark(number, kind, match.span(), inside, tagged=True)
    if not COORDINATES.fullmatch(match.string, *inside):
        return None
    tagged = match["key"] is None and kind in TOKENS
    return _Mark(number, kind, match.span(), inside, _numbers(match.string, inside), tagged=tagged)


def _own(number: int, match: regex.Match[str], inside: tuple[int, int]) -> _Mark:
    return _Mark(number, "point", match.span(), inside, _numbers(match.string, inside))


def _numbers(text: str, span: tuple[int, int]) -> tuple[tuple[int, int, float], ...]:
    return tuple((*match.span(), float(match[0])) for match in NUMBER.finditer(text, *span))


def _placed(
    mark: _Mark, image: int | None, parts: Sequence[Part], sizes: Sequence[tuple[int, int]], rule: Boxes
) -> _Mark:
    """The mark with its picture's size, its coordinates held against it. Raises BadBox."""
    if mark.kind == "ref":
        return mark
    shown = (parts[mark.part].text or "")[slice(*mark.inside)].strip()[:80]
    values = [value for _, _, value in mark.numbers]
    if len(values) % NUMBERS[mark.kind] and not (mark.kind == "box" and len(values) == 2):
        raise BadBox("malformed_record", f"a {mark.kind} of {len(values)} numbers: {shown}")
    if mark.kind == "box" and any(
        values[i] > values[i + 2] or values[i + 1] > values[i + 3] for i in range(0, len(values) - 3, 4)
    ):
        raise BadBox("malformed_record", f"a box whose second corner lies before its first: {shown}")
    scale = mark.scale or rule.from_
    # Shares of a picture that are written as such are the same in any.
    relative = scale != "pixels" and rule.write == "thousand"
    size = (0, 0) if relative else _picture(mark, image, parts, sizes, shown)
    extent, tolerance = _extent(scale, size), TOLERANCE[scale]
    for place, value in enumerate(values):
        if not -tolerance <= value <= extent[place % 2] + tolerance:
            what = f"a picture of {size[0]}x{size[1]}" if scale == "pixels" else f"0 to {extent[0]}"
            raise BadBox("box_outside_image", f"{shown} leaves {what}")
    return mark._replace(size=size, scale=scale, picture=image)


def _extent(scale: str, size: tuple[int, int]) -> tuple[int, int]:
    return {"pixels": size, "unit": (1, 1), "thousand": (THOUSAND, THOUSAND)}[scale]


def _picture(
    mark: _Mark, image: int | None, parts: Sequence[Part], sizes: Sequence[tuple[int, int]], shown: str
) -> tuple[int, int]:
    """The size of the picture that a box lies in. Raises BadBox where that is not clear."""
    if image is not None:
        if not 0 <= image < len(sizes):
            raise BadBox("box_without_image", f"{shown} is in image {image}, there are {len(sizes)}")
        return sizes[image]
    if len(sizes) == 1:
        return sizes[0]
    places = [number for number, part in enumerate(parts) if part.text is None]
    before = [which for which, number in enumerate(places) if number < mark.part]
    last = parts[places[before[-1]]].turn if before else None
    candidates = {sizes[which] for which in before if parts[places[which]].turn == last}
    if len(candidates) != 1:
        what = "several pictures that are shown together" if candidates else "no picture shown before it"
        raise BadBox("box_without_image", f"{shown} could be in {what}")
    return candidates.pop()


def _tokens(part: Part, mark: _Mark, inside: str, values: Sequence[int]) -> Iterator[Part]:
    """A mark between control tokens, as Qwen2-VL writes it: several boxes in one pair of tags as so many."""
    name, each = TOKENS[mark.kind], NUMBERS.get(mark.kind, 1)
    points = [f"({x},{y})" for x, y in zip(values[::2], values[1::2], strict=True)]
    texts = [",".join(points[i : i + each // 2]) for i in range(0, len(points), each // 2)] if points else [inside]
    for text in texts:
        yield Control(part.turn, part.role, part.loss, f"<|{name}_start|>")
        if text:
            yield part._replace(text=text)
        yield Control(part.turn, part.role, part.loss, f"<|{name}_end|>")
