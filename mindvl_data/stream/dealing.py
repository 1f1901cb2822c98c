"""A global batch dealt to ranks so that none waits for the busiest: equal counts, levelled costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Costs are compared as whole numbers, in this part of their mean: no rounding that another machine does otherwise.
SCALE = 1 << 16
ROUNDS = 16


def deal(costs: NDArray[np.int64], world: int) -> NDArray[np.int64]:
    """Packs to ranks, alike in cost. A pure function: every rank computes the same.

    Packs of one column are alike in cost, so that ranks that take one after another also meet at every micro-batch.

    Args:
        costs: int64 [packs, kinds], such as Σ l² and patches; each kind counts by its share of the batch.
        world: Ranks.

    Returns:
        int64 [world, packs / world], the packs of every rank, the most expensive first.

    Raises:
        ValueError: `world` does not divide the packs.
    """
    if len(costs) % world:
        raise ValueError(f"{len(costs)} packs cannot be dealt evenly to {world} ranks")
    shares = costs * SCALE // np.maximum(costs.sum(axis=0) // len(costs), 1)
    columns = np.argsort(-shares.sum(axis=1), kind="stable").reshape(-1, world)
    loads = np.zeros((world, shares.shape[1]), np.int64)
    dealt = np.empty_like(columns)
    for number, column in enumerate(columns):
        # The dearest of the column to the rank that has least.
        dealt[number, np.argsort(loads.sum(axis=1), kind="stable")] = column
        loads += shares[dealt[number]]
    for _ in range(ROUNDS):
        if not any([_swapped(column, shares, loads) for column in dealt]):
            break
    return np.ascontiguousarray(dealt.T)


def _swapped(column: NDArray[np.int64], shares: NDArray[np.int64], loads: NDArray[np.int64]) -> bool:
    """Exchanges, in place, the two packs of a column that level Σ load² most; False when none does."""
    own = shares[column]
    # Ranks a and b exchange: a's load changes by own[b] - own[a], b's by the opposite.
    change = own[None] - own[:, None]
    gain = (change * (change + loads[:, None] - loads[None])).sum(axis=2)
    a, b = divmod(int(gain.argmin()), len(column))
    if gain[a, b] >= 0:
        return False
    loads[a] += change[a, b]
    loads[b] -= change[a, b]
    column[[a, b]] = column[[b, a]]
    return True


def imbalance(costs: NDArray[np.int64], dealt: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each kind of cost, the busiest rank's over the mean rank's.

    Args:
        costs: int64 [packs, kinds], as `deal` takes them.
        dealt: int64 [world, packs / world], as `deal` gives them.

    Returns:
        float64 [kinds]; 1 is level.
    """
    loads = costs[dealt].sum(axis=1)
    return np.asarray(loads.max(axis=0) / np.maximum(loads.mean(axis=0), 1e-9), np.float64)
