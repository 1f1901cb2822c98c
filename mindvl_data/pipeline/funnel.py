"""The funnel: how many samples of each source went into a step, came out of it, and why the others left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.tables.columns import chunks

if TYPE_CHECKING:
    from mindvl_data.steps.filters import Rule

# The share of a source above which what one rule takes is worth a word.
NOTEWORTHY = {"filter": 1 / 3, "decontaminate": 0.1, "dedup": 0.1}
ALIKE_HINT = "`by: sample` keeps samples that differ in their images or in their texts"


@dataclass(frozen=True)
class FunnelLine:
    """How many samples of a source went into a step and came out, and why the others left.

    unused: how many samples have a member of a tar beside them that is no part of them, by its suffix.
    """

    step: str
    source: str
    entered: int
    left: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    unused: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        line = {
            "step": self.step,
            "source": self.source,
            "in": self.entered,
            "out": self.left,
            "reasons": dict(sorted(self.reasons.items())),
        }
        return line | ({"unused": dict(sorted(self.unused.items()))} if self.unused else {})


def warnings(funnel: Sequence[FunnelLine], rules: Sequence[Rule]) -> list[str]:
    """Where one rule takes so much of a source that it may do what nobody meant; a `top` is meant to."""
    meant = {f"filter: {rule.name}" for rule in rules if rule.top is not None}
    found = []
    for line in funnel:
        lost, what = line.entered - line.left, line.step.split(":")[0]
        if line.step not in meant and lost > NOTEWORTHY.get(what, 1) * line.entered:
            hint = f"; {ALIKE_HINT}" if line.step in ("dedup: image", "dedup: text") else ""
            found.append(f"{line.step} takes {lost:,} of the {line.entered:,} samples of {line.source}{hint}")
    return found


def funnel_lines(
    step: str,
    sources: Sequence[str],
    source: NDArray[Any],
    entered: NDArray[np.bool_],
    left: NDArray[np.bool_],
) -> list[FunnelLine]:
    """One line a source from masks over samples; without reasons: nothing is dropped here, only chosen."""
    into, out = np.zeros(len(sources), np.int64), np.zeros(len(sources), np.int64)
    for start, end in chunks(len(source)):
        some = source[start:end]
        into += np.bincount(some[entered[start:end]], minlength=len(sources))
        out += np.bincount(some[left[start:end]], minlength=len(sources))
    return [FunnelLine(step, name, int(into[i]), int(out[i])) for i, name in enumerate(sources)]


def reasons_by_source(
    sources: Sequence[str], source: NDArray[Any], lost: Mapping[str, NDArray[np.integer]]
) -> list[dict[str, int]]:
    """How often each reason struck each source; lost: the samples by reason."""
    struck = {reason: np.bincount(source[samples], minlength=len(sources)) for reason, samples in lost.items()}
    return [{reason: int(times[i]) for reason, times in struck.items() if times[i]} for i in range(len(sources))]
