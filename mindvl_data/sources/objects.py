"""ms-swift's `objects`: boxes and names of what they frame, beside texts with their places `<bbox>` and `<ref-object>`.

The texts become whole here (a filter, a judge or a search for duplicates sees `a dog [12, 30, 80, 95]`), each box
and name a part of its own; which parts these are is kept beside the sample, for the boxes are rewritten later.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mindvl_data.sources import Row, Sample, Unusable
from mindvl_data.tables.schema import BOXES, Part

PLACES = re.compile("(<bbox>|<ref-object>)")
SCALES = {None: None, "real": "pixels", "norm1": "unit"}


def with_objects(sample: Sample, row: Row, asked: bool) -> Sample:
    """The sample with its row's `objects` put into its texts, where they have places for them. Raises Unusable.

    Args:
        asked: Whether the source says `boxes`; without it a text with places cannot be used.
    """
    objects = row.get("objects")
    if not asked and not objects:
        return sample
    texts = [part.text or "" for part in sample.parts]
    counts = {kind: sum(text.count(kind) for text in texts) for kind in ("<bbox>", "<ref-object>")}
    if not any(counts.values()):
        return sample
    if not asked:
        raise Unusable("malformed_record", "its texts have places for boxes; add `boxes: {from: …, write: …}`")
    boxes, refs, images, scale = _columns(objects)
    for kind, values in (("<bbox>", boxes), ("<ref-object>", refs)):
        if counts[kind] != len(values):
            raise Unusable("box_count_mismatch", f"{counts[kind]} places {kind} for {len(values)} of them")
    return _filled(sample, iter(zip(boxes, images, strict=True)), iter(refs), scale)


def _filled(
    sample: Sample, boxes: Iterator[tuple[Sequence[Any], int]], refs: Iterator[str], scale: str | None
) -> Sample:
    parts: list[Part] = []
    marks: list[tuple[int, str, int, str | None]] = []
    for part in sample.parts:
        if part.text is None:
            parts.append(part)
            continue
        for piece in PLACES.split(part.text):
            if piece == "<bbox>":
                box, image = next(boxes)
                marks.append((len(parts), "box", image, scale))
                piece = f"[{', '.join(map(repr, box))}]"
            elif piece == "<ref-object>":
                marks.append((len(parts), "ref", 0, None))
                piece = next(refs)
            if piece or not part.text or (marks and marks[-1][0] == len(parts)):
                parts.append(part._replace(text=piece))
    return sample._replace(parts=parts, data={**sample.data, BOXES: json.dumps(marks)})


def _columns(objects: Any) -> tuple[list[list[float]], list[str], list[int], str | None]:
    """The boxes, the names, the image of each box and the scale of all of them. Raises Unusable."""
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError) as error:
            raise Unusable("malformed_record", f"`objects` is no JSON: {error}") from error
    if not isinstance(objects, dict | None):
        raise Unusable("malformed_record", "`objects` is no object of ref and bbox")
    objects = objects or {}
    boxes, refs, images = (objects.get(name) or [] for name in ("bbox", "ref", "image_id"))
    kind = objects.get("bbox_type")
    if not isinstance(boxes, list) or not all(map(_is_box, boxes)):
        raise Unusable("malformed_record", "`objects.bbox` is a list of boxes, each of 2 or 4 numbers")
    if not isinstance(refs, list) or not all(isinstance(ref, str) for ref in refs):
        raise Unusable("malformed_record", "`objects.ref` is a list of texts")
    if not isinstance(images, list) or not all(type(image) is int for image in images) or len(images) > len(boxes):
        raise Unusable("malformed_record", "`objects.image_id` is a list of numbers, one a box")
    if not isinstance(kind, str | None) or kind not in SCALES:
        raise Unusable("malformed_record", f"`objects.bbox_type` is {kind!r}; there are: real, norm1")
    return boxes, refs, [*images, *[0] * (len(boxes) - len(images))], SCALES[kind]


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (2, 4)
        and all(type(number) in (int, float) and math.isfinite(number) for number in value)
    )
