"""Packs, the limits that each keeps, and the fewest packs that these allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mindvl_data.errors import UserError

# Packs looked at together: what a step holds beside its results does not grow with them.
BLOCK = 1 << 16
# More samples than any pack has: the default of no limit.
UNLIMITED = 1 << 40


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


@dataclass(frozen=True)
class Limits:
    """Tokens, patches (None: any number) and samples of one pack."""

    capacity: int
    max_patches: int | None = None
    max_samples: int = UNLIMITED


def check(lengths: NDArray[np.integer], patches: NDArray[np.integer] | None, limits: Limits) -> None:
    """Raise PackError naming the first sample that alone breaks a limit."""
    if limits.capacity < 1 or limits.max_samples < 1:
        raise PackError("a pack holds at least one token and one sample: capacity and max_samples are from 1 on")
    if limits.max_patches is not None and patches is None:
        raise PackError("max_patches needs the patches of each sample")
    _check_column("length", lengths, 1, limits.capacity, "tokens")
    if patches is not None:
        if len(patches) != len(lengths):
            raise PackError(f"{len(lengths)} lengths and {len(patches)} numbers of patches; give one each a sample")
        most = 2**31 - 1 if limits.max_patches is None else min(limits.max_patches, 2**31 - 1)
        _check_column("patches", patches, 0, most, "patches")


def _check_column(name: str, values: NDArray[np.integer], least: int, most: int, unit: str) -> None:
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise PackError(f"{name}: give one column of integers, not {values.dtype} of shape {values.shape}")
    if not len(values) or (values.min() >= least and values.max() <= most):
        return
    first = int(np.argmax((values < least) | (values > most)))
    raise PackError(f"sample {first} has {name} {values[first]}; a pack holds {least} to {most} {unit}")


def minimum_packs(counts: NDArray[np.int64], capacity: int) -> int:
    """max(⌈Σ length / capacity⌉, L2) of a histogram of lengths (Martello & Toth 1990, section 8.3.2).

    L2 counts, for every threshold a ≤ capacity / 2: the lengths over capacity - a, which stand alone beside
    those over half; and the packs that lengths a … capacity / 2 need beyond the room those leave.
    """
    length = np.arange(capacity + 1)
    number, mass = np.cumsum(counts), np.cumsum(counts * length)
    half = capacity // 2
    a = np.arange(half + 1)
    over_half = number[-1] - number[half]
    room = (number[capacity - a] - number[half]) * capacity - (mass[capacity - a] - mass[half])
    small = mass[half] - np.where(a > 0, mass[a - 1], 0)
    packs = over_half + np.maximum(0, -((room - small) // capacity))
    return int(max(-(-mass[-1] // capacity), packs.max()))


def minimum_packs_within(counts: NDArray[np.int64], patches: NDArray[np.integer] | None, limits: Limits) -> int:
    """No plan within these limits has fewer packs: the largest minimum of any one limit."""
    found = max(minimum_packs(counts, limits.capacity), -(-int(counts.sum()) // limits.max_samples))
    if patches is None or not limits.max_patches:
        return found
    return max(found, -(-int(patches.sum(dtype=np.int64)) // limits.max_patches))
