"""What an epoch trains on of a set, from the losses of the epochs before: pure functions under their names.

A selection is an entry point of the group `mindvl_train.selections`. It sees every segment's loss and random words and
returns what is kept and what it weighs; all state is the losses that were written.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mindvl_train.config.schema import SelectionConfig

# In nats: what a sample counts that no step has seen, as in the published code.
UNSEEN = 3.0
LEAST_KEPT = 0.1
ITERATIONS = 300


class Selection(Protocol):
    """Which segments an epoch trains on, bool [n], and what a loss token of each weighs besides, float64 [n]."""

    def __call__(
        self, losses: NDArray[np.float64], words: NDArray[np.uint64], epoch: int, epochs: int, config: SelectionConfig
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """
        Args:
            losses: [n] float64, of every segment its sample's last, in nats a target; NaN: no step has seen it.
            words: [n] uint64, random, of this epoch.
            epoch: from 0.
            epochs: of the stage.
            config: of the selection.
        """


def infobatch(
    losses: NDArray[np.float64], words: NDArray[np.uint64], epoch: int, epochs: int, config: SelectionConfig
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of the segments below the mean loss a share is left out, and the others of them weigh as much more (Qin et al.
    2024, arXiv 2303.04947): the sum of gradients over the epoch is in expectation that over all segments.

    The weight is their number over that of those kept, which is 1 / (1 - prune) but for the rounding of a number of
    segments. The last epochs have everything.
    """
    kept, weights = np.ones(len(losses), bool), np.ones(len(losses))
    known = _known(losses)
    below = np.flatnonzero(known < known.mean()) if len(known) else np.zeros(0, np.int64)
    stay = int(_share(config) * len(below))
    if _is_last(epoch, epochs, config) or not stay:
        return kept, weights
    kept[below] = False
    staying = below[_first(words[below], stay)]
    kept[staying], weights[staying] = True, len(below) / stay
    return kept, weights


def seta(
    losses: NDArray[np.float64], words: NDArray[np.uint64], epoch: int, epochs: int, config: SelectionConfig
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Of a random share of the segments, those whose loss is in a window that slides from easy to hard (SeTa, arXiv
    2503.13385; `seta.py` of mrazhou/SeTa).

    Losses are put into groups by k-means; the window is `window` of the groups and begins one group later each epoch,
    then again with the easiest; the first epoch has all groups. The last epochs have the random share alone.
    """
    kept = np.zeros(len(losses), bool)
    drawn = _first(words, int(_share(config) * len(losses)))
    if epoch and not _is_last(epoch, epochs, config):
        known = _known(losses)[drawn]
        order = np.argsort(known, kind="stable")
        borders = groups_of(known[order], config.groups)
        size = round((len(borders) - 1) * config.window) or 1
        start = epoch % (len(borders) - size)
        drawn = drawn[order[borders[start] : borders[start + size]]]
    kept[drawn] = True
    return kept, np.ones(len(losses))


def groups_of(values: NDArray[np.float64], groups: int) -> NDArray[np.int64]:
    """Borders of the groups that k-means makes of sorted numbers, int64 [groups + 1] or fewer where there are fewer.

    Lloyd's steps from the groups of equal size; on a line every group is a run. Groups without a member are left out;
    equal values make groups of equal size.
    """
    n = len(values)
    groups = min(groups, n)
    borders = np.arange(groups + 1) * n // max(groups, 1)
    if not n or values[0] == values[-1]:
        return borders
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(ITERATIONS):
        centres = np.diff(sums[borders]) / np.diff(borders)
        inner = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        moved = np.unique(np.concatenate([[0], inner, [n]]))
        if np.array_equal(moved, borders):
            break
        borders = moved
    return borders


def _known(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isnan(losses), UNSEEN, losses)


def _share(config: SelectionConfig) -> float:
    """What is kept; never less than a tenth, as in the published code."""
    return min(1.0, max(LEAST_KEPT, 1.0 - config.prune))


def _is_last(epoch: int, epochs: int, config: SelectionConfig) -> bool:
    """Whether nothing is selected by loss any more: the epochs after (1 - full) of all."""
    return epoch + 1 > epochs * (1 - config.full)


def _first(words: NDArray[Any], count: int) -> NDArray[np.int64]:
    """The places of the `count` smallest words, in order."""
    return np.sort(np.argsort(words, kind="stable")[:count])
