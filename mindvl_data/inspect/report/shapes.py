"""Boxes and points of a sample's texts, to be drawn on its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mindvl_data.recipe import Boxes
from mindvl_data.tables.schema import Part
from mindvl_data.tokenise.grounding import BadBox, Shape, grounded

# What a recipe's `write` makes of them, as what they are then.
WRITTEN = {"resized": "pixels", "thousand": "thousand"}
MOST = 100


def in_segment(
    drawn: Sequence[dict[str, Any]],
    spans: Sequence[Mapping[str, Any]],
    rule: Mapping[str, Any],
    resolution: Mapping[str, Any],
) -> None:
    """Give the pictures of a segment, as the page draws them, the `shapes` that its whole spans name.

    Args:
        rule: The source's `boxes` as the recipe has it.
        resolution: Of the set, which the coordinates are written for.
    """
    pictures = [number for number, span in enumerate(spans) if span["grid"] is not None]
    sizes = [(spans[n]["grid"][2] * resolution["patch"], spans[n]["grid"][1] * resolution["patch"]) for n in pictures]
    parts = [Part(0, "", None, None if span["grid"] is not None else span["text"]) for span in spans]
    written = {"from": WRITTEN[rule["write"]], "write": rule["write"]}
    for shape in shapes(parts, sizes, written, None):
        if shape.picture < len(pictures):
            drawn[pictures[shape.picture]].setdefault("shapes", []).append([shape.kind, rounded(shape)])


def shapes(
    parts: Sequence[Part], sizes: Sequence[tuple[int, int]], rule: Mapping[str, Any], objects: str | None
) -> list[Shape]:
    """The first shapes of a sample; none where it has none, or bad ones, which the ledger tells of."""
    try:
        found = grounded(parts, sizes, Boxes.model_validate(dict(rule)), objects)
    except BadBox:
        return []
    return found.shapes()[:MOST] if found else []


def rounded(shape: Shape) -> list[float]:
    """Its points, to a thousandth of the picture."""
    return [round(value, 4) for value in shape.points]
