"""Which mixtures are tried: pure functions of the number of sets."""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from mindvl_data.random_words import words


def simplex(sets: int, points: int | None, least: float) -> NDArray[np.float64]:
    """Mixtures over the simplex, [points, sets] float64, every share at least `least`.

    Corners, middles of edges, the centre, halfway from it to the corners; more are drawn evenly from a fixed seed. As
    many as there are of these by default; fewer leave the last out.

    Raises:
        ValueError: fewer than a quadratic has coefficients, or shares that cannot be so large.
    """
    if least * sets >= 1:
        raise ValueError(f"least is {least:g}, which {sets} sets cannot all have")
    needed = sets * (sets + 1) // 2
    if points is not None and points < needed:
        raise ValueError(f"{points} points: a quadratic over {sets} sets needs {needed} or more")
    corners = np.eye(sets)
    edges = [(corners[a] + corners[b]) / 2 for a, b in combinations(range(sets), 2)]
    centre = np.full(sets, 1 / sets)
    fixed = np.array([*corners, *edges, centre, *((corner + centre) / 2 for corner in corners)])
    more = _drawn(sets, max(0, (points or 0) - len(fixed)), "design")
    chosen = np.concatenate([fixed, more])[: points or len(fixed)]
    return np.asarray(least + (1 - sets * least) * chosen)


def quadratic(mixtures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scheffé's terms: every share and every product of two, [points, sets + sets·(sets - 1) / 2]."""
    pairs = list(combinations(range(mixtures.shape[1]), 2))
    products = [mixtures[:, a] * mixtures[:, b] for a, b in pairs]
    return np.column_stack([mixtures, *products])


def candidates(sets: int, least: float, number: int = 20_000) -> NDArray[np.float64]:
    """Mixtures among which the lowest is looked for, [number + sets + 1, sets]: corners, the centre, drawn ones."""
    together = np.concatenate([np.eye(sets), np.full((1, sets), 1 / sets), _drawn(sets, number, "candidates")])
    return np.asarray(least + (1 - sets * least) * together)


def _drawn(sets: int, number: int, name: str) -> NDArray[np.float64]:
    """Drawn evenly over the simplex, [number, sets]: the gaps that uniform points leave (Devroye 1986, V.2)."""
    points = words(number * (sets - 1), 0, name).reshape(number, sets - 1) / 2.0**64
    return np.diff(np.sort(points, axis=1), axis=1, prepend=0, append=1)


def with_share(mixture: NDArray[np.float64], number: int, share: float) -> NDArray[np.float64]:
    """The mixture with another share of one set, the others in proportion: float64 [sets], which adds up to 1."""
    others = np.delete(mixture, number)
    return np.insert(others * ((1 - share) / others.sum()), number, share)
