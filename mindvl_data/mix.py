"""Mixing: token budgets and shares become an ordered draw of (sample, repeat).

Each source is an endless row of passes over its samples, every pass in an order of its own. Laid along one
axis by (tokens before it in its source) / share, the draw of any budget is what lies before the budget: a
smaller budget is a prefix of a larger one, and a source's order does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindvl_data.draws import hashed
from mindvl_data.errors import UserError


class MixError(UserError):
    """A budget that the data cannot serve; the message says how much is missing."""


@dataclass(frozen=True)
class Pool:
    """What a stage may draw from one source: tokens int64 [n], and samples int64 [n], their row numbers."""

    samples: NDArray[np.int64]
    sample_ids: NDArray[np.uint8]
    tokens: NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.tokens.sum())


@dataclass(frozen=True)
class Draw:
    """The ordered draw: row numbers int64 [d], repeats int16 [d] counted from 0."""

    samples: NDArray[np.int64]
    repeats: NDArray[np.int16]


def draw(
    pools: Mapping[str, Pool],
    shares: Mapping[str, float],
    *,
    tokens: int | None,
    epochs: float | None,
    max_repeats: float,
    seed: int,
    stage: str,
) -> Draw:
    """Draw `tokens`, or the largest budget that passes no source more than `epochs` times.

    Each source ends within one sample of its share. Raises MixError when a source would be passed more
    than `max_repeats` times or is empty.
    """
    empty = [name for name in shares if not pools[name].total]
    if empty:
        raise MixError(
            f"stages.{stage}: the source {empty[0]} has no sample left to draw from; "
            "the funnel of `plan` says where they went"
        )
    budget = largest_budget(pools, shares, epochs) if tokens is None else float(tokens)
    _check_repeats(pools, shares, budget, max_repeats, stage)
    drawn = [_draw_source(pools[name], share, budget, name, seed, stage) for name, share in shares.items()]
    when = np.concatenate([item[0] for item in drawn])
    source = np.repeat(np.arange(len(drawn)), [len(item[0]) for item in drawn])
    order = np.lexsort((source, when))
    return Draw(
        np.concatenate([item[1] for item in drawn])[order],
        np.concatenate([item[2] for item in drawn])[order],
    )


def largest_budget(pools: Mapping[str, Pool], shares: Mapping[str, float], epochs: float | None) -> float:
    """The largest budget at which no source is passed more than `epochs` times at the asked shares."""
    assert epochs is not None
    return min(epochs * pools[name].total / share for name, share in shares.items())


def _check_repeats(
    pools: Mapping[str, Pool], shares: Mapping[str, float], budget: float, max_repeats: float, stage: str
) -> None:
    passes = {name: budget * share / pools[name].total for name, share in shares.items()}
    worst = max(passes, key=passes.__getitem__)
    if passes[worst] <= max_repeats * (1 + 1e-9):
        return
    need = math.ceil(budget * shares[worst] / max_repeats)
    raise MixError(
        f"stages.{stage}.budget: {budget:,.0f} tokens at a share of {shares[worst]:g} pass {worst} "
        f"{passes[worst]:.2f} times, max_repeats is {max_repeats:g}. {worst} has {pools[worst].total:,} tokens "
        f"here, {need - pools[worst].total:,} too few. Add data, lower its share, raise max_repeats, or ask for "
        f"at most {math.floor(largest_budget(pools, shares, max_repeats)):,} tokens"
    )


def _draw_source(
    pool: Pool, share: float, budget: float, name: str, seed: int, stage: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int16]]:
    """When (along the budget's axis), which row and which repeat, of everything drawn from one source."""
    times, rows, repeats = [], [], []
    before = 0
    for repeat in range(math.ceil(budget * share / pool.total - 1e-12)):
        order = pass_order(pool.sample_ids, seed, f"{stage}\0{name}\0{repeat}")
        tokens = pool.tokens[order]
        when = (before + np.cumsum(tokens) - tokens) / share
        taken = int(np.searchsorted(when, budget, side="left"))
        times.append(when[:taken])
        rows.append(pool.samples[order[:taken]])
        repeats.append(np.full(taken, repeat, np.int16))
        before += pool.total
    return np.concatenate(times), np.concatenate(rows), np.concatenate(repeats)


def pass_order(sample_ids: NDArray[np.uint8], seed: int, name: str) -> NDArray[np.int64]:
    """One pass over samples as a permutation, int64 [n], drawn from (seed, name, sample id).

    By a hash of each id rather than a generator's stream: adding a sample moves no other.
    """
    words = np.ascontiguousarray(sample_ids).view("<u8").reshape(-1, 2)
    return np.lexsort((words[:, 1], words[:, 0], hashed(words[:, 0], seed, name))).astype(np.int64)
