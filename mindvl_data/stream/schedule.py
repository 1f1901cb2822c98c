"""Weights that change: shares that move in straight lines between knots, as an arrangement without a period.

The j-th pack of a source wants to stand where the integral of its share reaches j + 1/2; all of them, in that order,
are the arrangement. Position n is found by arithmetic: places are laid out a block at a time, and how many packs of
each source stand before a block is an integral too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 14
Knots = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scheduled:
    """Sources by shares that change with the position; after the last knot they stay.

    Attributes:
        knots: positions, the first 0, rising.
        shares: of every source its share at every knot; at each they sum to 1.
    """

    knots: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]

    @property
    def weights(self) -> tuple[tuple[float, ...], ...]:
        """All that the arrangement depends on."""
        return (self.knots, *self.shares)

    def at(self, position: int) -> tuple[int, int]:
        """(source, how many of its places came before `position`)."""
        number, block = self._block(position)
        place = position - sum(self._before(number))
        return int(block.sources[place]), int(block.counts[place])

    def counts(self, position: int) -> list[int]:
        """Places of every source among the first `position`."""
        number, block = self._block(position)
        before = self._before(number)
        inside = np.bincount(block.sources[: position - sum(before)], minlength=len(before))
        return [start + int(count) for start, count in zip(before, inside, strict=True)]

    def position(self, source: int, number: int) -> int | None:
        """Where the `number`-th place of a source (from 0) stands; None: its share ends before."""
        wanted = float(_inverse(self, source, np.array([float(number)]))[0])
        if math.isinf(wanted):
            return None
        block = int(wanted // BLOCK)
        while number < self._before(block)[source]:
            block -= 1
        while number >= self._before(block + 1)[source]:
            block += 1
        laid = _laid_out(self, block)
        mine = np.flatnonzero(laid.sources == source)
        return sum(self._before(block)) + int(mine[number - self._before(block)[source]])

    def _before(self, block: int) -> list[int]:
        """How many packs of each source want to stand before a block."""
        return _before(self, block)

    def _block(self, position: int) -> tuple[int, Laid]:
        """The block that a position stands in, which may begin a few places from its multiple."""
        number = position // BLOCK
        while sum(self._before(number)) > position:
            number -= 1
        while sum(self._before(number + 1)) <= position:
            number += 1
        return number, _laid_out(self, number)


@dataclass(frozen=True)
class Laid:
    """A block's places: the source at each, and how many of its places came before: int64 [places]."""

    sources: NDArray[np.int64]
    counts: NDArray[np.int64]


def scheduled(weights: Sequence[float | Knots]) -> Scheduled:
    """Sources by weights that are numbers, or (packs, weight) knots with straight lines of shares between them.

    Raises ValueError for knots that do not rise from 0 or weights that are none.
    """
    given = [_knots(weight) for weight in weights]
    places = sorted({place for one in given for place, _ in one})
    table = np.array([np.interp(places, [n for n, _ in one], [x for _, x in one]) for one in given])
    sums = table.sum(axis=0)
    if not (sums > 0).all():
        raise ValueError(f"at pack {places[int(np.argmin(sums))]:g} no source has a weight")
    return Scheduled(tuple(places), tuple(tuple(row) for row in (table / sums).tolist()))


def _knots(weight: float | Knots) -> list[tuple[float, float]]:
    knots = [(0.0, float(weight))] if isinstance(weight, (int, float)) else [(float(n), float(x)) for n, x in weight]
    places = [place for place, _ in knots]
    if not knots or places[0] != 0 or any(b <= a for a, b in pairwise(places)):
        raise ValueError(f"a schedule begins at pack 0 and rises: {knots}")
    if any(not math.isfinite(each) or each < 0 for _, each in knots):
        raise ValueError(f"weights are {[each for _, each in knots]}; every weight is 0 or more")
    return knots


@lru_cache(maxsize=64)
def _integrals(of: Scheduled) -> NDArray[np.float64]:
    """The integral of every share up to every knot, float64 [sources, knots]."""
    shares, widths = np.array(of.shares), np.diff(of.knots)
    steps = (shares[:, 1:] + shares[:, :-1]) / 2 * widths
    return np.concatenate([np.zeros((len(shares), 1)), np.cumsum(steps, axis=1)], axis=1)


@lru_cache(maxsize=64)
def _before(of: Scheduled, block: int) -> list[int]:
    position = float(block * BLOCK)
    knot = int(np.searchsorted(of.knots, position, side="right")) - 1
    inside = position - of.knots[knot]
    last = knot + 1 == len(of.knots)
    counts = []
    for shares, integral in zip(of.shares, _integrals(of)[:, knot].tolist(), strict=True):
        slope = 0.0 if last else (shares[knot + 1] - shares[knot]) / (of.knots[knot + 1] - of.knots[knot])
        counts.append(math.ceil(integral + inside * (shares[knot] + slope * inside / 2) - 0.5))
    return counts


def _inverse(of: Scheduled, source: int, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the packs of these numbers want to stand, float64: where the integral is half more; inf: nowhere."""
    amounts = numbers + 0.5
    integral, shares = _integrals(of)[source], np.array(of.shares[source])
    knot = np.searchsorted(integral, amounts, side="right") - 1
    rest = amounts - integral[knot]
    slopes = np.append(np.diff(shares) / np.diff(of.knots), 0.0)
    share, slope = shares[knot], slopes[knot]
    # The smaller root of share·x + slope·x²/2 = rest, in the form that does not cancel.
    root = share + np.sqrt(np.maximum(share**2 + 2 * slope * rest, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(rest > 0, 2 * rest / root, 0.0)
    return np.asarray(np.array(of.knots)[knot] + inside, np.float64)


@lru_cache(maxsize=64)
def _laid_out(of: Scheduled, block: int) -> Laid:
    starts, stops = _before(of, block), _before(of, block + 1)
    numbers = [np.arange(start, stop) for start, stop in zip(starts, stops, strict=True)]
    wanted = [_inverse(of, source, mine.astype(np.float64)) for source, mine in enumerate(numbers)]
    owner = np.repeat(np.arange(len(numbers)), [len(mine) for mine in numbers])
    order = np.lexsort((owner, np.concatenate(wanted)))
    return Laid(owner[order].astype(np.int64), np.concatenate(numbers)[order].astype(np.int64))
