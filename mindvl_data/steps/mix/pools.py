"""What a stage may draw from: the samples of each source that fit, and what each of them counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError
from mindvl_data.tables.columns import taken


class MixError(UserError):
    """A mixture or budget that the data cannot serve; the message says how much is missing."""


class Stock(Protocol):
    """How much of a source there is: `size` in what shares are shares of; its length is its samples."""

    @property
    def size(self) -> int: ...

    @property
    def total_tokens(self) -> int: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Pool:
    """One source's samples, n of them.

    samples: their row numbers, integers [n]. The rest are columns over the rows of all sources, not copied:
    sample_ids, uint8 [rows, 16]; tokens, integers [rows]; measure: what shares are shares of, integers [rows]
    (tokens, loss tokens) or None where every sample counts 1.
    """

    samples: NDArray[np.integer]
    sample_ids: NDArray[np.uint8]
    tokens: NDArray[np.integer]
    measure: NDArray[np.integer] | None

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def total_tokens(self) -> int:
        return int(taken(self.tokens, self.samples).sum(dtype=np.int64))

    @cached_property
    def size(self) -> int:
        """The whole source in what shares are shares of."""
        return len(self) if self.measure is None else int(taken(self.measure, self.samples).sum(dtype=np.int64))
