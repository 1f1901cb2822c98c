"""Weights as an arrangement: which source stands at each place of a period that repeats for ever."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

LONGEST_PERIOD = 1 << 16


@dataclass(frozen=True)
class Arrangement:
    """Sources spread evenly over a period: of any `len(sources)` places in a row, source i has `weights[i]`.

    sources: int64 [period], the source at each place. before: int64 [period], how many places of the same
    source stand before it in the period. places: of each source, int64 [weight], where it stands.
    """

    weights: tuple[int, ...]
    sources: NDArray[np.int64]
    before: NDArray[np.int64]
    places: tuple[NDArray[np.int64], ...]

    def at(self, position: int) -> tuple[int, int]:
        """(source, how many of its places came before `position`)."""
        period, place = divmod(position, len(self.sources))
        source = int(self.sources[place])
        return source, period * self.weights[source] + int(self.before[place])

    def counts(self, position: int) -> list[int]:
        """Places of every source among the first `position`."""
        period, place = divmod(position, len(self.sources))
        inside = np.bincount(self.sources[:place], minlength=len(self.weights))
        return [period * weight + int(count) for weight, count in zip(self.weights, inside, strict=True)]

    def position(self, source: int, number: int) -> int:
        """Where the `number`-th place of a source (from 0) stands: the inverse of `at`."""
        period, inside = divmod(number, self.weights[source])
        return period * len(self.sources) + int(self.places[source][inside])


def arrange(weights: Sequence[int]) -> Arrangement:
    """The j-th of w places of a source wants to stand at (j + 1/2) / w of the period; ties go to the first source.

    This is Webster's apportionment, place by place: after every place each source has its share but for less
    than a place times half the number of sources.
    """
    wanted = np.concatenate([(2 * np.arange(weight) + 1) / (2 * weight) for weight in weights])
    owner = np.repeat(np.arange(len(weights)), weights)
    sources = owner[np.lexsort((owner, wanted))].astype(np.int64)
    places = tuple(np.flatnonzero(sources == source) for source in range(len(weights)))
    before = np.empty(len(sources), np.int64)
    for standing in places:
        before[standing] = np.arange(len(standing))
    return Arrangement(tuple(weights), sources, before, places)


def whole_weights(weights: Sequence[float]) -> tuple[int, ...]:
    """Weights as the smallest whole numbers of the same ratio, or to 1/65536 where those are too large.

    Raises ValueError for weights that are not positive, or over 65536 times apart.
    """
    if any(not math.isfinite(weight) or weight <= 0 for weight in weights):
        raise ValueError(f"weights are {list(weights)}; every weight is a number above 0")
    # repr gives what was written: 0.3 and not the double beside it.
    exact = [Fraction(repr(weight)) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * scale) for weight in exact]
    whole = [weight // math.gcd(*whole) for weight in whole]
    if sum(whole) <= LONGEST_PERIOD:
        return tuple(whole)
    total = sum(exact)
    rounded = [round(weight / total * LONGEST_PERIOD) for weight in exact]
    if min(rounded) == 0:
        raise ValueError(f"weights are {list(weights)}; none may be under 1/{LONGEST_PERIOD} of their sum")
    return tuple(weight // math.gcd(*rounded) for weight in rounded)
