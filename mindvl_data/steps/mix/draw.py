"""The draw: each source is an endless row of passes over its samples, every pass in an order of its own.

Each draw stands on one axis where its middle lies: (what comes before it in its source + half of it) / share. The
draw of any budget is what stands before the budget, which gives every source its share to within half a sample. A
smaller budget is a prefix of a larger one, and a source's order does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed
from mindvl_data.steps.mix.asked import Asked
from mindvl_data.steps.mix.pools import Pool
from mindvl_data.tables.columns import chunks, let_go, taken

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
    total = sum(len(one.times) for one in drawn)
    merged = Draw(np.empty(total, drawn[0].rows.dtype), np.empty(total, np.int16))
    # A stretch of the axis at a time: an order of the whole would take as much memory as all that is drawn.
    borders = np.linspace(0, amount, len([*chunks(total)]) + 1)[1:]
    ends = np.stack([np.searchsorted(one.times, borders, side="left") for one in drawn], axis=1).reshape(-1, len(drawn))
    place = 0
    for first, last in zip([[0] * len(drawn), *ends[:-1].tolist()], ends.tolist(), strict=False):
        spans = [one[start:end] for one, start, end in zip(drawn, first, last, strict=True)]
        # Stable: where two sources stand at one point of the axis, the one named first comes first.
        order = np.argsort(np.concatenate([one.times for one in spans]), kind="stable")
        merged.samples[place : place + len(order)] = np.concatenate([one.rows for one in spans])[order]
        merged.repeats[place : place + len(order)] = np.concatenate([one.repeats for one in spans])[order]
        place += len(order)
    return merged


@dataclass(frozen=True)
class _FromSource:
    """What is drawn of one source: where on the axis, float64 [d], ascending; which row; which repeat, int16 [d]."""

    times: NDArray[np.float64]
    rows: NDArray[np.integer]
    repeats: NDArray[np.int16]

    def __getitem__(self, span: slice) -> _FromSource:
        return _FromSource(self.times[span], self.rows[span], self.repeats[span])


def _draw_source(pool: Pool, share: float, amount: float, name: str, seed: int, stage: str) -> _FromSource:
    passes = math.ceil(amount * share / pool.size - 1e-12)
    most = passes * len(pool)
    drawn = _FromSource(np.empty(most), np.empty(most, pool.samples.dtype), np.empty(most, np.int16))
    before = end = 0
    for repeat in range(passes):
        one = drawn[end : end + len(pool)]
        order = pass_order(pool.sample_ids, pool.samples, seed, f"{stage}\0{name}\0{repeat}")
        one.rows[:] = taken(pool.samples, order)
        del order
        _fill_middles(one.times, pool.measure, one.rows)
        np.divide(np.add(one.times, before, out=one.times), share, out=one.times)
        one.repeats[:] = repeat
        before += pool.size
        end += int(np.searchsorted(one.times, amount, side="left"))
    return drawn[:end]


def _fill_middles(middles: NDArray[np.float64], measure: NDArray[np.integer] | None, rows: NDArray[np.integer]) -> None:
    """Where the middle of each sample lies in its source, in this order. Sums are exact: all are below 2^53."""
    total = 0
    for start, end in chunks(len(rows)):
        if measure is None:
            middles[start:end] = np.arange(start, end) + 0.5
            continue
        counts = measure[rows[start:end]]
        sums = total + np.cumsum(counts, dtype=np.int64)
        middles[start:end] = sums - counts * 0.5
        total = int(sums[-1])


def pass_order(sample_ids: NDArray[np.uint8], samples: NDArray[np.integer], seed: int, name: str) -> NDArray[np.int64]:
    """One pass over samples as a permutation, int64 [n], drawn from (seed, name, sample id).

    By a hash of each id rather than a generator's stream: adding a sample moves no other.

    Args:
        sample_ids: uint8 [rows, 16].
        samples: Their rows, ascending, integers [n].
        seed: The recipe's.
        name: Of the pass.
    """
    drawn = np.empty(len(samples), np.uint64)
    for start, end in chunks(len(samples)):
        drawn[start:end] = hashed(_words(sample_ids[samples[start:end]])[:, 0], seed, name)
        let_go(sample_ids)
    order: NDArray[np.int64] = np.argsort(drawn).astype(np.int64, copy=False)
    if _has_ties(drawn, order):  # two ids with one first half: then the other half decides
        words = _words(sample_ids[samples])
        order = np.lexsort((words[:, 1], words[:, 0], drawn)).astype(np.int64, copy=False)
    return order


def _words(sample_ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(sample_ids).view("<u8").reshape(-1, 2)


def _has_ties(drawn: NDArray[np.uint64], order: NDArray[np.int64]) -> bool:
    return any(bool((np.diff(drawn[order[start : end + 1]]) == 0).any()) for start, end in chunks(len(order)))
