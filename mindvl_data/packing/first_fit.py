"""First-fit decreasing on counts: pack for pack what it makes sample by sample.

A group is a range of pack numbers from its `START` on. The groups of one residual form a leftist heap (Crane
1972) by their start; a tree over residuals holds the earliest start of each, so that the earliest pack with
room for a length is found in logarithmic time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled
from mindvl_data.packing.patterns import (
    GROUP_FIELDS,
    NEXT,
    NONE,
    NUMBER,
    RANK,
    RESIDUAL,
    SIDE,
    SLOTS,
    START,
    STEP_FIELDS,
    Table,
    as_patterns,
    grow,
    open_packs,
    with_room,
    zero,
)

NEVER = 1 << 62


@compiled
def first_fit_decreasing(counts: NDArray[np.int64], capacity: int, max_samples: int) -> tuple[Table, Table]:
    """Patterns (see groups.patterns) of first-fit decreasing; counts: int64 [capacity + 1]."""
    groups = np.empty((1024, GROUP_FIELDS), np.int64)
    steps = np.empty((1024, STEP_FIELDS), np.int64)
    used = taken = opened = zero()
    leaves = 1
    while leaves <= capacity:
        leaves *= 2
    tree = np.full(2 * leaves, NEVER)
    heaps = np.full(capacity + 1, NONE)
    for length in range(capacity, 0, -1):
        left = counts[length]
        while left:
            groups = with_room(groups, used + 1)
            steps = with_room(steps, taken)
            residual = _earliest(tree, leaves, length)
            group = used
            if residual == NONE:
                open_packs(groups, group, left, capacity, max_samples)
                groups[group, START] = opened
                used += 1
            else:
                group = heaps[residual]
                heaps[residual] = _merge(groups, groups[group, NEXT], groups[group, SIDE])
            copies = min(groups[group, RESIDUAL] // length, groups[group, SLOTS], left)
            number = min(left // copies, groups[group, NUMBER])
            grow(groups, group, used, steps, taken, length, copies, number)
            groups[used, START] = groups[group, START]
            groups[group, START] += number
            if residual == NONE:
                opened += number
                groups[group, NUMBER] = 0
            else:
                _offer(tree, leaves, heaps, groups, group)
            _offer(tree, leaves, heaps, groups, used)
            used += 1
            taken += 1
            left -= number * copies
    return as_patterns(groups, used, steps, taken)


@compiled
def _offer(tree: NDArray[np.int64], leaves: int, heaps: NDArray[np.int64], groups: Table, group: int) -> None:
    """Put a group into the heap of its residual, unless it takes nothing more, and bring the tree up to date."""
    residual = groups[group, RESIDUAL]
    if groups[group, NUMBER] and groups[group, SLOTS]:
        groups[group, NEXT] = groups[group, SIDE] = NONE
        groups[group, RANK] = 1
        heaps[residual] = _merge(groups, heaps[residual], group)
    node = leaves + residual
    tree[node] = NEVER if heaps[residual] == NONE else groups[heaps[residual], START]
    while node > 1:
        node //= 2
        tree[node] = min(tree[2 * node], tree[2 * node + 1])


@compiled
def _earliest(tree: NDArray[np.int64], leaves: int, length: int) -> int:
    """The residual of the earliest pack with room for `length`; NONE when no pack has it."""
    best = node = leaves + length
    while node > 1:
        if node % 2 == 0 and tree[node + 1] < tree[best]:
            best = node + 1
        node //= 2
    if tree[best] == NEVER:
        return NONE
    while best < leaves:
        best = 2 * best if tree[2 * best] == tree[best] else 2 * best + 1
    return best - leaves


@compiled
def _merge(groups: Table, one: int, other: int) -> int:
    """The root of two leftist heaps made one; NEXT and SIDE are a group's children, RANK its distance to a leaf."""
    trail = NONE
    while one != NONE and other != NONE:
        if groups[other, START] < groups[one, START]:
            one, other = other, one
        rest = groups[one, SIDE]
        groups[one, SIDE] = trail
        trail = one
        one = rest
    root = other if one == NONE else one
    while trail != NONE:
        above = groups[trail, SIDE]
        groups[trail, SIDE] = root
        near, far = groups[trail, NEXT], root
        if near == NONE or groups[near, RANK] < groups[far, RANK]:
            groups[trail, NEXT], groups[trail, SIDE] = far, near
        far = groups[trail, SIDE]
        groups[trail, RANK] = 1 if far == NONE else groups[far, RANK] + 1
        root = trail
        trail = above
    return root
