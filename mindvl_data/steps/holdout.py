"""The held-out set: samples chosen by a hash of what they show, so that no picture is on both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import hashed


def held_out(content: NDArray[np.uint64], starts: NDArray[np.integer], share: float, seed: int) -> NDArray[np.bool_]:
    """Which samples are held out, bool [n].

    content: a hash of each image (of the text where there is none), the samples' in a row; starts:
    [n + 1] into it, every sample with at least one. Samples that share content stand or fall together, also
    through others; the group is drawn by its smallest hash and the seed.
    """
    if len(starts) == 1:
        return np.zeros(0, bool)
    return hashed(_groups(content, starts), seed, "holdout") < np.uint64(int(share * 2.0**64))


def _groups(content: NDArray[np.uint64], starts: NDArray[np.integer]) -> NDArray[np.uint64]:
    """The smallest hash among all that a sample is connected with, uint64 [n].

    Labels are ranks of hashes. Each round spreads the smallest over every sample and then lets each label
    follow its own label (pointer jumping), so that a chain of any length is done in its logarithm of rounds.
    """
    names, member = np.unique(content, return_inverse=True)
    labels = np.arange(len(names))
    sample = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    while True:
        group = np.minimum.reduceat(labels[member], starts[:-1])
        spread = labels.copy()
        np.minimum.at(spread, labels[member], group[sample])
        np.minimum.at(spread, member, group[sample])
        spread = spread[spread]
        if np.array_equal(spread, labels):
            return names[group]
        labels = spread
