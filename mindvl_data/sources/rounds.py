"""What becomes of a conversation before its template: which thoughts stay, and several samples of one conversation.

A round is what a user asks, and all that answers it: thoughts, calls of tools, what those gave, and the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Literal

from mindvl_data.sources import Sample
from mindvl_data.tables.schema import BOXES, Part

Thinking = Literal["keep", "last", "drop"]
THOUGHTS: Final = "reasoning_content"
# A thought at the beginning of a text; where the question's header had begun it, without its first tag.
THOUGHT: Final = re.compile(r"(?:\s*<think>)?(?:(?!<think>).)*?</think>\s*", re.DOTALL)


def shaped(sample: Sample, thinking: Thinking, split: bool) -> list[Sample]:
    """The samples that a conversation becomes, with the thoughts that stay."""
    samples = [*_by_rounds(sample)] if split else [sample]
    return samples if thinking == "keep" else [_without_thoughts(one, thinking) for one in samples]


def _by_rounds(sample: Sample) -> Iterator[Sample]:
    """A sample for every round, with what was said before, of which nothing is learnt.

    A conversation that holds no thought before its last round is one: a template forgets nothing of it.
    """
    ends = _round_ends(sample.parts)
    before = ends[-2] if len(ends) > 1 else 0
    if not any(_thinks(part) for part in sample.parts[:before]):
        yield sample
        return
    start, unused = 0, sample.unused
    for number, end in enumerate(ends, 1):
        told = [_untrained(part) for part in sample.parts[:start]] + sample.parts[start:end]
        if any(part.role == "assistant" and part.loss is not False for part in told[start:]):
            yield _cut(sample, told, f"{sample.key}:round{number}")._replace(unused=unused)
            unused = ()
        start = end


def _cut(sample: Sample, parts: list[Part], key: str) -> Sample:
    images = sum(part.text is None for part in parts)
    cut = sample._replace(key=key, parts=parts, images=sample.images[:images])
    return _with_boxes(cut, range(len(parts)))


def _with_boxes(sample: Sample, kept: Sequence[int]) -> Sample:
    """The sample with its boxes at the numbers that its parts have now; kept: those that they had."""
    if not sample.data.get(BOXES):
        return sample
    new = {old: number for number, old in enumerate(kept)}
    boxes = [[new[part], *rest] for part, *rest in json.loads(sample.data[BOXES]) if part in new]
    return sample._replace(data={**sample.data, BOXES: json.dumps(boxes) if boxes else None})


def _round_ends(parts: Sequence[Part]) -> list[int]:
    """Where each round ends: before a user's turn that follows something else than a user's or the system's."""
    ends = [
        number
        for number, (one, other) in enumerate(pairwise(parts), 1)
        if other.role == "user" and one.turn != other.turn and one.role not in ("user", "system")
    ]
    return [*ends, len(parts)]


def _thinks(part: Part) -> bool:
    said = part.text is not None and part.field is None and "</think>" in part.text
    return part.role == "assistant" and (said or (part.field == THOUGHTS and bool(part.text)))


def _untrained(part: Part) -> Part:
    return part._replace(loss=False) if part.role == "assistant" or part.loss else part


def _without_thoughts(sample: Sample, thinking: Thinking) -> Sample:
    ends = _round_ends(sample.parts)
    last = ends[-2] if thinking == "last" and len(ends) > 1 else 0 if thinking == "last" else len(sample.parts)
    kept = [number for number, part in enumerate(sample.parts) if number >= last or part.field != THOUGHTS]
    parts, turn = list[Part](), -1
    for number in kept:
        part = sample.parts[number]
        opens = part.field is None and part.turn != turn
        turn = part.turn if part.field is None else turn
        if number < last and opens and part.role == "assistant" and part.text is not None:
            part = part._replace(text=THOUGHT.sub("", part.text, count=1) if THOUGHT.match(part.text) else part.text)
        parts.append(part)
    return _with_boxes(sample._replace(parts=parts), kept)
