"""The order in which packs are written, and how balanced the steps of an order are.

Steps of packs alike in two costs: the packs are halved, by the cost that spreads more, until a step is left. That is
a k-d tree (Bentley 1975) with whole steps as its leaves: the dense middle of both costs is cut finely, and the few
expensive packs share their steps.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled, for_samples
from mindvl_data.random_words import shuffle, words


def order_packs(
    attention: NDArray[np.int64],
    vision: NDArray[np.int64],
    *,
    rule: str,
    step: int,
    seed: int,
    name: str,
    borders: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The order in which packs are written, int64 [packs], drawn from (seed, name).

    attention, vision: Σ l² and patches of each pack. `shuffled`: any pack anywhere. `balanced`: the packs of a
    step are alike in both costs; steps, and the packs within each, are shuffled. borders: where windows begin
    and end, int64 [windows + 1]; packs then stay within their window, but its last, less than a step, go with
    the next.
    """
    if borders is None:
        return _order(attention, vision, rule, step, seed, name)
    edges = edges_of(borders, step).tolist()
    spans = [slice(first, last) for first, last in itertools.pairwise(edges)]
    parts = [
        span.start + _order(attention[span], vision[span], rule, step, seed, f"{name}\0window {span.start}")
        for span in spans
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def edges_of(borders: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Where windows begin and end in whole steps, int64; a last step that is not full belongs to the last."""
    return np.unique(np.append(borders[:-1] // step * step, borders[-1]))


def _order(
    attention: NDArray[np.int64], vision: NDArray[np.int64], rule: str, step: int, seed: int, name: str
) -> NDArray[np.int64]:
    shuffled = shuffle(len(attention), seed, name)
    full = len(attention) // step
    if rule == "shuffled" or full < 2:
        return shuffled
    # What does not fill a step is any packs, not the cheapest; equal costs fall by the shuffle, not by place.
    whole, tail = shuffled[: full * step], shuffled[full * step :]
    ranks = [_ranks(costs[whole]) for costs in (attention, vision)]
    weights = [1 / max(float(costs[whole].sum()), 1.0) for costs in (attention, vision)]
    with for_samples(len(attention)):
        alike = _halved(attention[whole], vision[whole], step, ranks[0], ranks[1], weights[0], weights[1])
    steps = whole[alike].reshape(full, step)[shuffle(full, seed, f"{name}\0steps")]
    inside = np.argsort(words(full * step, seed, f"{name}\0inside").reshape(full, step), axis=1, kind="stable")
    return np.concatenate([np.take_along_axis(steps, inside, axis=1).ravel(), tail])


def _ranks(costs: NDArray[np.int64]) -> NDArray[np.int64]:
    ranks = np.empty(len(costs), np.int64)
    ranks[np.argsort(costs, kind="stable")] = np.arange(len(costs))
    return ranks


def step_balance(costs: NDArray[np.int64], step: int) -> float:
    """Σ of the steps' largest cost over Σ of their mean, over whole steps (or all packs, when fewer): 1 is level."""
    whole = len(costs) // step * step
    rows = costs[:whole].reshape(-1, step) if whole else costs.reshape(1, -1)
    mean = float(rows.mean(axis=1).sum()) if rows.size else 0.0
    return float(rows.max(axis=1).sum()) / mean if mean else 1.0


@compiled
def _halved(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    step: int,
    first_ranks: NDArray[np.int64],
    second_ranks: NDArray[np.int64],
    first_weight: float,
    second_weight: float,
) -> NDArray[np.int64]:
    """The packs step by step, int64 [n], n a multiple of `step`.

    first, second: the two costs; their ranks: each pack's place in the sort by one; weight: one over the sum.
    """
    order = np.arange(len(first))
    stack = [(0, len(first))]
    while stack:
        start, end = stack.pop()
        steps = (end - start) // step
        if steps < 2:
            continue
        middle = start + steps // 2 * step
        if _spread(first, order, start, end) * first_weight >= _spread(second, order, start, end) * second_weight:
            _select(order, first_ranks, start, end, middle)
        else:
            _select(order, second_ranks, start, end, middle)
        stack.append((start, middle))
        stack.append((middle, end))
    return order


@compiled
def _spread(costs: NDArray[np.int64], order: NDArray[np.int64], start: int, end: int) -> int:
    least = most = costs[order[start]]
    for i in range(start + 1, end):
        least = min(least, costs[order[i]])
        most = max(most, costs[order[i]])
    return int(most - least)


@compiled
def _select(order: NDArray[np.int64], ranks: NDArray[np.int64], start: int, end: int, middle: int) -> None:
    """Bring the smallest ranks of order[start:end] before `middle` (Hoare's quickselect; ranks are distinct)."""
    low, high = start, end - 1
    while low < high:
        pivot = ranks[order[(low + high) // 2]]
        i, j = low, high
        while i <= j:
            while ranks[order[i]] < pivot:
                i += 1
            while ranks[order[j]] > pivot:
                j -= 1
            if i <= j:
                order[i], order[j] = order[j], order[i]
                i += 1
                j -= 1
        if middle <= j:
            high = j
        elif middle >= i:
            low = i
        else:
            return
