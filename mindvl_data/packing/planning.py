"""From lengths to packs: of all samples at once, or window by window of samples that lie close together.

Windows are for sources too large to read at random. Each window of samples is packed by itself, together with what
the window before could not pack full. A pack that is not full is taken apart again and its samples go on, but no
sample goes on more than `MAX_AGE` times: a reader holds the samples of `MAX_AGE` + 1 windows at most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import for_samples
from mindvl_data.packing.one_dimensional import best_patterns, hand_out_samples
from mindvl_data.packing.packs import UNLIMITED, Limits, PackError, Packs, check, index_type, minimum_packs_within
from mindvl_data.packing.patterns import histogram
from mindvl_data.packing.swaps import balance_patches, separate_repeats
from mindvl_data.packing.two_dimensional import within_patches

# A pack this full, in tokens or patches, is written; others are opened again with the next window, ...
FULL = 0.995
# ... but no sample more often than this.
MAX_AGE = 4


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
        return _plan(_int32(lengths), _optional(patches), limits, balance, seed, _optional(samples))


def _plan(
    lengths: NDArray[np.int32],
    patches: NDArray[np.int32] | None,
    limits: Limits,
    balance: bool,
    seed: int,
    samples: NDArray[np.int32] | None = None,
) -> Packs:
    """`plan` of samples that were checked against the limits."""
    counts = histogram(lengths, limits.capacity)
    minimum = minimum_packs_within(counts, patches, limits)
    packs = hand_out_samples(lengths, counts, best_patterns(counts, limits, minimum, balance), seed)
    if patches is not None and (balance or limits.max_patches is not None):
        balance_patches(packs, lengths, patches, counts)
    if patches is not None and limits.max_patches is not None:
        packs = within_patches(packs, lengths, patches, limits, minimum)
    if samples is not None:
        separate_repeats(packs, lengths, patches, samples, counts, limits)
    return Packs(packs.index, packs.offsets, minimum)


def plan_windows(
    lengths: NDArray[np.integer],
    capacity: int,
    window: int,
    patches: NDArray[np.integer] | None = None,
    max_patches: int | None = None,
    max_samples: int | None = None,
    balance: bool = True,
    seed: int = 0,
    samples: NDArray[np.integer] | None = None,
) -> tuple[Packs, NDArray[np.int64]]:
    """`plan`, of `window` samples at a time in the order given; and where each window's packs begin.

    The packs of window w are borders[w] … borders[w + 1], int64 [windows + 1]; they hold samples of the windows
    w - MAX_AGE … w alone. Raises PackError as `plan` does.
    """
    if window < 1:
        raise PackError("a window holds at least one sample")
    limits = Limits(capacity, max_patches, UNLIMITED if max_samples is None else max_samples)
    check(lengths, patches, limits)
    with for_samples(len(lengths)):
        return _plan_windows(_int32(lengths), window, _optional(patches), limits, balance, seed, _optional(samples))


def _plan_windows(
    lengths: NDArray[np.int32],
    window: int,
    patches: NDArray[np.int32] | None,
    limits: Limits,
    balance: bool,
    seed: int,
    drawn: NDArray[np.int32] | None,
) -> tuple[Packs, NDArray[np.int64]]:
    kind = index_type(len(lengths))
    indices, sizes, borders = [np.zeros(0, kind)], [np.zeros(0, kind)], [0]
    carried, ages = np.zeros(0, kind), np.zeros(0, np.int64)
    for start in range(0, len(lengths), window):
        end = min(start + window, len(lengths))
        samples = np.concatenate([carried, np.arange(start, end, dtype=kind)])
        ages = np.concatenate([ages + 1, np.zeros(end - start, np.int64)])
        some = None if patches is None else patches[samples]
        of = None if drawn is None else drawn[samples]
        packs = _plan(lengths[samples], some, limits, balance, seed, of)
        done = _done(packs, lengths[samples], some, limits, ages) | (end == len(lengths))
        ready, rest = packs.reordered(np.flatnonzero(done)), packs.reordered(np.flatnonzero(~done))
        indices.append(samples[ready.index])
        sizes.append(np.diff(ready.offsets))
        borders.append(borders[-1] + len(ready))
        carried, ages = samples[rest.index], ages[rest.index]
    offsets = np.concatenate([np.zeros(1, kind), *sizes]).cumsum(dtype=kind)
    counts = np.bincount(lengths, minlength=limits.capacity + 1)
    minimum = minimum_packs_within(counts, patches, limits)
    return Packs(np.concatenate(indices), offsets, minimum), np.array(borders, np.int64)


def _done(
    packs: Packs,
    lengths: NDArray[np.integer],
    patches: NDArray[np.integer] | None,
    limits: Limits,
    ages: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Which packs are written now: the full ones, and those that hold a sample of the greatest age."""
    done = packs.sums(lengths) >= FULL * limits.capacity
    done |= np.diff(packs.offsets) >= limits.max_samples
    if patches is not None and limits.max_patches is not None:
        done |= packs.sums(patches) >= FULL * limits.max_patches
    oldest = packs.sums((ages >= MAX_AGE).astype(np.int64)) > 0
    return np.asarray(done | oldest)


def _optional(values: NDArray[np.integer] | None) -> NDArray[np.int32] | None:
    """`_int32` of a column that need not be there."""
    return None if values is None else _int32(values)


def _int32(values: NDArray[np.integer]) -> NDArray[np.int32]:
    """The column that the kernels take."""
    return np.ascontiguousarray(values, np.int32)
