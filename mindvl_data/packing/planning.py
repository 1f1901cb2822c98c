"""The plan of one set of samples: from lengths to packs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.apart import keep_apart
from mindvl_data.packing.compiled import for_samples
from mindvl_data.packing.expand import histogram
from mindvl_data.packing.limits import UNLIMITED, Limits, bound, check
from mindvl_data.packing.one_limit import best_patterns, hand_out_samples
from mindvl_data.packing.packs import Packs
from mindvl_data.packing.swap import even_out
from mindvl_data.packing.two_limits import within_patches


def plan(
    lengths: NDArray[np.integer],
    capacity: int,
    patches: NDArray[np.integer] | None = None,
    max_patches: int | None = None,
    max_samples: int | None = None,
    balance: bool = True,
    seed: int = 0,
    samples: NDArray[np.integer] | None = None,
) -> Packs:
    """Pack samples of `lengths` tokens (integers [n], each 1 … capacity) into as few packs as can be found.

    patches: of each sample, before the merge, integers [n]. max_patches, max_samples: limits of a pack beside
    its capacity. balance: make packs alike in Σ l² and, where `patches` are given, in patches; the fill stays
    within 0.05 points. seed: which samples of one length go together. samples: which sample each of them is a
    draw of, integers [n]: draws of one stay out of one pack where there is another sample as long.

    Raises PackError naming the first sample that alone breaks a limit. The result depends on the arguments
    alone; one thread computes it. From 20,000 samples on (100,000 where only tokens limit a pack and nothing is drawn
    twice) the kernels are compiled by numba, on first use, and cached: plain NumPy takes eight times as long for ten
    million samples (docs/packing.md).
    """
    limits = Limits(capacity, max_patches, UNLIMITED if max_samples is None else max_samples)
    check(lengths, patches, limits)
    with for_samples(len(lengths), only_tokens=max_patches is None and samples is None):
        return plan_within(int32(lengths), optional(patches), limits, balance, seed, optional(samples))


def plan_within(
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32] | None,
    limits: Limits,
    balance: bool,
    seed: int,
    samples: NDArray[np.int32] | None = None,
) -> Packs:
    """`plan` of samples that were checked against the limits."""
    counts = histogram(lengths, limits.capacity)
    least = bound(counts, patches, limits)
    packs = hand_out_samples(lengths, counts, best_patterns(counts, limits, least, balance), seed)
    if patches is not None and (balance or limits.max_patches is not None):
        even_out(packs, lengths, patches, counts)
    if patches is not None and limits.max_patches is not None:
        packs = within_patches(packs, lengths, patches, limits, least)
    if samples is not None:
        keep_apart(packs, lengths, patches, samples, counts, limits)
    return Packs(packs.index, packs.offsets, least)


def optional(values: NDArray[np.integer] | None) -> NDArray[np.int32] | None:
    """`int32` of a column that need not be there."""
    return None if values is None else int32(values)


def int32(values: NDArray[np.integer]) -> NDArray[np.int32]:
    """The column that the kernels take."""
    return np.ascontiguousarray(values, np.int32)
