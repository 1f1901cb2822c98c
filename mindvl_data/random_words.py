"""Random words from (seed, name, index) by hashing: no generator's stream, which a library's version may change."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def hashed(values: NDArray[np.uint64], seed: int, name: str) -> NDArray[np.uint64]:
    """A uniform uint64 for every value, the same wherever and whenever it is asked for."""
    key = np.frombuffer(hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8], "<u8")[0]
    return _splitmix64(values ^ key)


def words(n: int, seed: int, name: str) -> NDArray[np.uint64]:
    """n uniform words, uint64, no two of them equal; fewer are the first of more."""
    return hashed(np.arange(n, dtype=np.uint64), seed, name)


def shuffle(n: int, seed: int, name: str) -> NDArray[np.int64]:
    """A permutation of n, int64."""
    return np.argsort(words(n, seed, name)).astype(np.int64)


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection of uint64 without visible structure."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
