"""The cursor: which packs make the global batch at position n, the same on every rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mindvl_data.stream.chosen import ChosenBatches
from mindvl_data.stream.course import Course, Slot

Last = Literal["pad", "wrap", "drop"]


@dataclass(frozen=True)
class Step:
    """One global batch: its slots (none: the course is over), the cursor after it, what `drop` skipped before it."""

    slots: tuple[Slot, ...]
    after: int
    skipped: int = 0


def next_step(course: Course | ChosenBatches, n: int, global_batch: int, last: Last) -> Step:
    """The global batch that starts at cursor `n`; a pure function.

    Where a border (the end of an epoch or of a curriculum's period) leaves less than a batch, `pad` fills it
    with packs of padding, `wrap` takes what comes next, `drop` skips it. `n` counts real packs, so it means
    the same under any batch size.
    """
    skipped = 0
    while course.end is None or n < course.end:
        left = course.left(n)
        if left is None or left >= global_batch or last == "wrap":
            return Step(tuple(course.at(p) for p in range(n, n + global_batch)), n + global_batch, skipped)
        if last == "pad":
            real = tuple(course.at(p) for p in range(n, n + left))
            return Step(real + (replace(real[0], fills=True),) * (global_batch - left), n + left)
        n, skipped = n + left, skipped + left
    return Step((), n, skipped)
