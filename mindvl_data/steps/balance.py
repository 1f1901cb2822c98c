"""Balance: how many samples of each group stay, and which.

A cap a group is what MetaCLIP balances concepts by (Xu et al. 2023, arXiv 2309.16671: at most t texts a concept). A
exponent keeps counts in proportion to n ** exponent: 1 is a plain sample, 0 draws by inverse frequency, as
LLaVA-OneVision-1.5 weights concepts (An et al. 2025, arXiv 2509.23661), until groups are used up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed


def capped(sizes: NDArray[np.int64], cap: int) -> NDArray[np.int64]:
    """How many of each group stay when none may be larger: int64 [groups]."""
    return np.minimum(sizes, cap)


def flattened(sizes: NDArray[np.int64], share: float, exponent: float) -> NDArray[np.int64]:
    """How many of each group stay, int64 [groups]: `share` of all samples, in proportion to size ** exponent.

    What a group has not goes to the others in proportion. Rounded so that the sum is right, larger remainders first.
    """
    target = round(share * int(sizes.sum()))
    weights = np.where(sizes > 0, sizes.astype(np.float64) ** exponent, 0.0)
    whole = np.zeros(len(sizes), bool)
    kept = np.zeros(len(sizes))
    while True:
        open_ = ~whole & (sizes > 0)
        rest = target - sizes[whole].sum()
        kept = np.where(whole, sizes, 0.0)
        if not open_.any():
            break
        kept[open_] = rest * weights[open_] / weights[open_].sum()
        over = open_ & (kept >= sizes)
        if not over.any():
            break
        whole |= over
    counts = np.floor(kept).astype(np.int64)
    order = np.lexsort((np.arange(len(sizes)), -(kept - counts)))
    short = order[counts[order] < sizes[order]][: target - int(counts.sum())]
    counts[short] += 1
    return counts


def staying(
    groups: NDArray[np.int64],
    counts: NDArray[np.int64],
    ids: NDArray[np.uint8],
    prefer: NDArray[np.float64] | None,
    seed: int,
) -> NDArray[np.bool_]:
    """Which samples stay, bool [n]: of each group so many, those of the largest `prefer`, else by a hash of their id.

    groups: int64 [n], -1 for a sample without a group, which stays.
    """
    words = np.ascontiguousarray(ids).view("<u8").reshape(-1, 2)
    keys: list[NDArray[np.generic]] = [words[:, 1], words[:, 0], hashed(words[:, 0], seed, "balance")]
    if prefer is not None:
        keys.append(np.where(np.isnan(prefer), np.inf, -prefer))
    order = np.lexsort([*keys, groups])
    ordered = groups[order]
    place = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    stays = np.ones(len(groups), bool)
    stays[order] = (ordered < 0) | (place < counts[np.maximum(ordered, 0)]) if len(counts) else True
    return stays
