"""Windows: packs of samples that lie close together, for sources too large to read at random.

Each window of samples is packed by itself, together with what the window before could not pack full. A pack
that is not full is taken apart again and its samples go on, but no sample goes on more than `MAX_AGE` times: a
reader holds the samples of `MAX_AGE` + 1 windows at most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import for_samples
from mindvl_data.packing.limits import UNLIMITED, Limits, bound, check
from mindvl_data.packing.packs import PackError, Packs, index_type
from mindvl_data.packing.planning import int32, optional, plan_within

FULL = 0.995
MAX_AGE = 4


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
        return _plan_windows(int32(lengths), window, optional(patches), limits, balance, seed, optional(samples))


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
        packs = plan_within(lengths[samples], some, limits, balance, seed, of)
        done = _done(packs, lengths[samples], some, limits, ages) | (end == len(lengths))
        ready, rest = packs.reordered(np.flatnonzero(done)), packs.reordered(np.flatnonzero(~done))
        indices.append(samples[ready.index])
        sizes.append(np.diff(ready.offsets))
        borders.append(borders[-1] + len(ready))
        carried, ages = samples[rest.index], ages[rest.index]
    offsets = np.concatenate([np.zeros(1, kind), *sizes]).cumsum(dtype=kind)
    counts = np.bincount(lengths, minlength=limits.capacity + 1)
    return Packs(np.concatenate(indices), offsets, bound(counts, patches, limits)), np.array(borders, np.int64)


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
