"""The draw: each source is an endless row of passes over its samples, every pass in an order of its own.

Each draw stands on one axis where its middle lies: (what comes before it in its source + half of it) / share. The
draw of any budget is what stands before the budget, which gives every source its share to within half a sample. A
smaller budget is a prefix of a larger one, and a source's order does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.steps.mix.asked import Asked
from mindvl_data.steps.mix.pools import Pool

# A draw that ends by another count than its axis' is made this much too long at first, and longer if that was short.
SLACK = 1.02


@dataclass(frozen=True)
class Draw:
    """The ordered draw: row numbers integers [d], repeats int16 [d] counted from 0."""

    samples: NDArray[np.integer]
    repeats: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.samples)

    def first(self, draws: int) -> Draw:
        """The draw of a smaller budget."""
        return Draw(self.samples[:draws], self.repeats[:draws])


def draw(pools: Mapping[str, Pool], asked: Asked, seed: int, stage: str) -> Draw:
    """Draw what is asked for; each source ends within half a sample of its share of the amount."""
    if asked.tokens is None and asked.samples is None:
        return _merged(pools, asked, asked.amount, seed, stage)
    amount = asked.amount
    while True:
        amount = amount * SLACK + max(1, *(pool.size / len(pool) for pool in pools.values()))
        drawn = _merged(pools, asked, amount, seed, stage)
        end = _end(pools, asked, drawn)
        if end <= len(drawn):
            return drawn.first(end)


def _end(pools: Mapping[str, Pool], asked: Asked, drawn: Draw) -> int:
    """How many draws reach the budget; one more than there are where they do not."""
    if asked.samples is not None:
        return asked.samples
    assert asked.tokens is not None
    tokens = next(iter(pools.values())).tokens
    ends = np.cumsum(tokens[drawn.samples], dtype=np.int64)
    return int(np.searchsorted(ends, asked.tokens, side="left")) + 1


def _merged(pools: Mapping[str, Pool], asked: Asked, amount: float, seed: int, stage: str) -> Draw:
    drawn = [_draw_source(pools[name], share, amount, name, seed, stage) for name, share in asked.shares.items()]
    times, rows, repeats = (list(column) for column in zip(*drawn, strict=True))
    del drawn
    # Stable: where two sources stand at one point of the axis, the one named first comes first.
    order = np.argsort(_joined(times), kind="stable")
    return Draw(_joined(rows)[order], _joined(repeats)[order])


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of all, which are let go: the parts are not there beside what is made of the whole."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _draw_source(
    pool: Pool, share: float, amount: float, name: str, seed: int, stage: str
) -> tuple[NDArray[np.float64], NDArray[np.integer], NDArray[np.int16]]:
    """Where on the axis, which row and which repeat, of everything drawn from one source."""
    times, rows, repeats = [], [], []
    before = 0
    for repeat in range(math.ceil(amount * share / pool.size - 1e-12)):
        order = pass_order(pool.sample_ids[pool.samples], seed, f"{stage}\0{name}\0{repeat}")
        row = pool.samples[order]
        when = (before + _middles(pool.measure, row)) / share
        taken = int(np.searchsorted(when, amount, side="left"))
        times.append(when[:taken])
        rows.append(row[:taken])
        repeats.append(np.full(taken, repeat, np.int16))
        before += pool.size
    return np.concatenate(times), np.concatenate(rows), np.concatenate(repeats)


def _middles(measure: NDArray[np.integer] | None, rows: NDArray[np.integer]) -> NDArray[np.float64]:
    """Where the middle of each sample lies in its source, in this order, float64 [n]."""
    if measure is None:
        return np.arange(len(rows), dtype=np.float64) + 0.5
    counts = measure[rows]
    middles: NDArray[np.float64] = np.cumsum(counts, dtype=np.float64)
    middles -= counts * 0.5
    return middles


def pass_order(sample_ids: NDArray[np.uint8], seed: int, name: str) -> NDArray[np.int64]:
    """One pass over samples as a permutation, int64 [n], drawn from (seed, name, sample id).

    By a hash of each id rather than a generator's stream: adding a sample moves no other.
    """
    words = np.ascontiguousarray(sample_ids).view("<u8").reshape(-1, 2)
    drawn = hashed(words[:, 0], seed, name)
    order = np.argsort(drawn)
    if (drawn[order[1:]] == drawn[order[:-1]]).any():  # two ids with one first half: then the other half decides
        order = np.lexsort((words[:, 1], words[:, 0], drawn))
    return order.astype(np.int64, copy=False)
