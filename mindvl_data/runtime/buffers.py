"""Memory that is used again: fresh memory costs more to clear than a read from the page cache to fill."""

from __future__ import annotations

import weakref
from collections import deque

import numpy as np
from numpy.typing import NDArray


class Buffers:
    """Lends memory, and lends it again once nothing refers to it any more: no view of it, and no view of a view.

    There are never more buffers than were on loan at one time. Any thread may drop a loan.
    """

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque()

    def lend(self, size: int) -> memoryview:
        """So many bytes, of any content."""
        owner = self._free.pop() if self._free else np.empty(0, np.uint8)
        if len(owner) < size:
            # Loans are of about one size; what none of them touches takes no memory.
            owner = np.empty(1 << (size - 1).bit_length(), np.uint8)
        loan = owner[:size]
        weakref.finalize(loan, self._free.append, owner).atexit = False
        return loan.data
