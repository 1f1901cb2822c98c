"""What a manifest says of its stage in numbers: the funnel, the mixture, the packing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.fit import Weights
from mindvl_data.pack import Packs, step_balance


@dataclass(frozen=True)
class FunnelLine:
    """How many samples of a source went into a step and came out, and why the others left."""

    step: str
    source: str
    entered: int
    left: int
    reasons: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "source": self.source,
            "in": self.entered,
            "out": self.left,
            "reasons": dict(sorted(self.reasons.items())),
        }


def funnel_lines(
    step: str,
    sources: Sequence[str],
    source: NDArray[Any],
    entered: NDArray[np.bool_],
    left: NDArray[np.bool_],
) -> list[FunnelLine]:
    """One line a source from masks over samples; without reasons: nothing is dropped here, only chosen."""
    into = np.bincount(source[entered], minlength=len(sources))
    out = np.bincount(source[left], minlength=len(sources))
    return [FunnelLine(step, name, int(into[i]), int(out[i])) for i, name in enumerate(sources)]


def reasons_by_source(
    sources: Sequence[str], source: NDArray[Any], lost: Mapping[int, tuple[str, str]]
) -> list[Counter[str]]:
    """How often each reason struck each source."""
    counters: list[Counter[str]] = [Counter() for _ in sources]
    for sample, (reason, _) in lost.items():
        counters[source[sample]][reason] += 1
    return counters


def mixture(
    sources: Sequence[str],
    source: NDArray[Any],
    weights: Weights,
    drawn: NDArray[np.int64],
    asked: Mapping[str, float],
    pool_tokens: Mapping[str, int],
) -> dict[str, Any]:
    """Per source what was asked and what the draw gave; `repeats` are passes over what could be drawn."""
    of = source[drawn]
    columns = {
        "samples": np.ones(len(drawn), np.int64),
        "tokens": weights.tokens[drawn],
        "loss_tokens": weights.loss_tokens[drawn],
        "vision_tokens": weights.vision_tokens[drawn],
    }
    totals = {name: int(values.sum()) for name, values in columns.items()}
    lines = {}
    for name in asked:
        mine = of == sources.index(name)
        sums = {column: int(values[mine].sum()) for column, values in columns.items()}
        lines[name] = {
            "asked": asked[name],
            "achieved": round(sums["tokens"] / totals["tokens"], 6),
            **sums,
            "repeats": round(sums["tokens"] / pool_tokens[name], 4) if pool_tokens[name] else 0.0,
        }
    return {"by": "tokens", "total": totals, "sources": lines}


def packing(
    packs: Packs, weights: Weights, costs: Mapping[str, Mapping[str, NDArray[np.int64]]], seq_len: int, step: int
) -> dict[str, Any]:
    """Packs beside their lower bound, fill, and how level the steps of either order are: 1 means that no rank waits.

    costs: by order, then by name, of each pack in that order.
    """
    tokens = int(weights.tokens.sum())
    slots = len(packs) * seq_len
    return {
        "packs": len(packs),
        "lower_bound": packs.lower_bound,
        "tokens": tokens,
        "padding": slots - tokens,
        "fill": round(tokens / slots, 6),
        "segments_per_pack": round(len(packs.index) / len(packs), 3),
        "cost_balance": {
            rule: {name: round(step_balance(values, step), 4) for name, values in ordered.items()}
            for rule, ordered in costs.items()
        },
    }
