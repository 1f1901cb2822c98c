"""Sets of small numbers as words of 64 bits: which lengths are left, which residuals exist."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.packing.compiled import compiled

Bits = NDArray[np.uint64]


@compiled
def empty_bits(numbers: int) -> Bits:
    """No number of 0 … numbers - 1, and one word beyond, so that a shifted read stays inside."""
    return np.zeros(numbers // 64 + 2, np.uint64)


@compiled
def add(bits: Bits, number: int) -> None:
    """Put a number into the set."""
    bits[number >> 6] |= np.uint64(1) << np.uint64(number & 63)


@compiled
def remove(bits: Bits, number: int) -> None:
    """Take a number out of the set."""
    bits[number >> 6] &= ~(np.uint64(1) << np.uint64(number & 63))


@compiled
def at_most(bits: Bits, number: int) -> int:
    """The largest member that is not above `number`; -1 when there is none."""
    word = number >> 6
    value = bits[word] & (~np.uint64(0) >> np.uint64(63 - (number & 63)))
    while value == 0:
        word -= 1
        if word < 0:
            return -1
        value = bits[word]
    return (word << 6) + highest(value)


@compiled
def at_least(bits: Bits, number: int) -> int:
    """The smallest member that is not below `number`; -1 when there is none."""
    word = number >> 6
    value = bits[word] & (~np.uint64(0) << np.uint64(number & 63))
    while value == 0:
        word += 1
        if word == len(bits):
            return -1
        value = bits[word]
    return (word << 6) + highest(value & (~value + np.uint64(1)))


@compiled
def highest(value: np.uint64) -> int:
    """The place of the highest bit set, by halving."""
    place = 0
    for width in (32, 16, 8, 4, 2, 1):
        if value >> np.uint64(width):
            value >>= np.uint64(width)
            place += width
    return place
