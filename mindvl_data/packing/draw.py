"""Random draws from (seed, name): the raw words of PCG64, which NumPy guarantees to stay what they are."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def words(n: int, seed: int, name: str) -> NDArray[np.uint64]:
    """n random words, uint64."""
    key = int.from_bytes(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:16], "little")
    return np.asarray(np.random.PCG64(key).random_raw(n), np.uint64)


def shuffle(n: int, seed: int, name: str) -> NDArray[np.int64]:
    """A permutation of n, int64."""
    return np.argsort(words(n, seed, name), kind="stable").astype(np.int64)
