"""A plan of packs in compressed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError


class PackError(UserError):
    """Samples that cannot be packed; the message names the first at fault."""


@dataclass(frozen=True)
class Packs:
    """`index[offsets[i]:offsets[i + 1]]` are the samples of pack i.

    index: [samples], each exactly once. offsets: [packs + 1]. Both int32 where the number of samples fits it,
    else int64. lower_bound: no plan within the same limits has fewer packs.
    """

    index: NDArray[Any]
    offsets: NDArray[Any]
    lower_bound: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sums(self, values: NDArray[np.integer]) -> NDArray[np.int64]:
        """Σ of a sample's value over each pack, int64 [packs]."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.add.reduceat(values[self.index], self.offsets[:-1], dtype=np.int64)

    def reordered(self, order: NDArray[np.integer]) -> Packs:
        """The packs that `order` names, in that order."""
        sizes = np.diff(self.offsets)[order]
        offsets = np.zeros(len(order) + 1, self.offsets.dtype)
        np.cumsum(sizes, out=offsets[1:])
        shift = np.repeat(self.offsets[:-1][order] - offsets[:-1], sizes)
        return Packs(self.index[shift + np.arange(offsets[-1], dtype=offsets.dtype)], offsets, self.lower_bound)


def index_type(samples: int) -> type[np.signedinteger[Any]]:
    """The integers that number samples and packs."""
    return np.int32 if samples < 2**31 - 1 else np.int64
