"""A plan of packs in compressed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError

# Packs looked at together: what a step holds beside its results does not grow with them.
BLOCK = 1 << 16


class PackError(UserError):
    """Samples that cannot be packed; the message names the first at fault."""


@dataclass(frozen=True)
class Packs:
    """`index[offsets[i]:offsets[i + 1]]` are the samples of pack i.

    index: [samples], each exactly once. offsets: [packs + 1]. Both int32 where the number of samples fits it,
    else int64. minimum_packs: no plan within the same limits has fewer packs.
    """

    index: NDArray[Any]
    offsets: NDArray[Any]
    minimum_packs: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sums(self, values: NDArray[np.integer], power: int = 1) -> NDArray[np.int64]:
        """Σ of a sample's value, to that power, over each pack, int64 [packs]."""
        totals = np.empty(len(self), np.int64)
        for first in range(0, len(self), BLOCK):
            borders = self.offsets[first : first + BLOCK + 1]
            some = values[self.index[borders[0] : borders[-1]]].astype(np.int64)
            totals[first : first + BLOCK] = np.add.reduceat(some**power, borders[:-1] - borders[0])
        return totals

    def reordered(self, order: NDArray[np.integer]) -> Packs:
        """The packs that `order` names, in that order."""
        sizes = np.diff(self.offsets)[order]
        offsets = np.zeros(len(order) + 1, self.offsets.dtype)
        np.cumsum(sizes, out=offsets[1:])
        index = np.empty(offsets[-1], self.index.dtype)
        for first in range(0, len(order), BLOCK):
            to = offsets[first : first + BLOCK + 1]
            shift = np.repeat(self.offsets[:-1][order[first : first + BLOCK]] - to[:-1], np.diff(to))
            index[to[0] : to[-1]] = self.index[shift + np.arange(to[0], to[-1])]
        return Packs(index, offsets, self.minimum_packs)


def index_type(samples: int) -> type[np.signedinteger[Any]]:
    """The integers that number samples and packs."""
    return np.int32 if samples < 2**31 - 1 else np.int64
