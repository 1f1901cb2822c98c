"""Shares by score: what DecoupleMix (arXiv 2607.24516) allots to the data sets of one class of capabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mindvl_data.steps.mix.pools import MixError


def allocated(
    scores: Mapping[str, float], tau: float, caps: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """The shares w that maximise Σ w·score + τ·Σ w·ln(weight / w), where Σ w = 1 and 0 ≤ w ≤ cap; weights of 1 make
    the second sum the entropy of w.

    The maximum is w = min(cap, weight·e^(score/τ) / Z), Z such that they sum to 1. Found by water filling: what is
    above its cap gets that, and the others share the rest as before, until none is above.

    Args:
        scores: Of every member.
        tau: Above 0, in the scores' unit.
        caps: Of some members, which together with the others' (1) are at least 1.
        weights: Of every member, above 0.

    Raises:
        MixError: A share is too small for a number; the message names the member.
    """
    levels = {name: score / tau + math.log(weights[name]) for name, score in scores.items()}
    full: dict[str, float] = {}
    while True:
        free = {name: level for name, level in levels.items() if name not in full}
        left = 1 - sum(full.values())
        found = _proportions(free, left)
        above = {name: caps[name] for name, share in found.items() if share > caps.get(name, 1.0)}
        if not above:
            shares = {name: full.get(name, found.get(name, 0.0)) for name in scores}
            break
        full |= above
    if nothing := [name for name, share in shares.items() if not share > 0]:
        raise MixError(
            f"allocate: with a tau of {tau:g} and a score of {scores[nothing[0]]:g}, {nothing[0]} gets nothing; "
            "raise tau, or leave it out of the group"
        )
    return shares


def _proportions(levels: Mapping[str, float], of: float) -> dict[str, float]:
    """Shares of `of` in proportion to e^level, from the largest down so that no power is too large."""
    if not levels:
        return {}
    top = max(levels.values())
    powers = {name: math.exp(level - top) for name, level in levels.items()}
    total = math.fsum(powers.values())
    return {name: of * power / total for name, power in powers.items()}
