"""A surface through the scores of mixtures, and the lowest place of it with its uncertainty."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000


@dataclass(frozen=True)
class Surface:
    """A linear model of some terms, by least squares.

    Attributes:
        coefficients: [terms] float64.
        covariance: [terms, terms] of them; NaN where as many scores as terms leave nothing to tell it by.
    """

    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]


@dataclass(frozen=True)
class Lowest:
    """Where a surface is lowest.

    Attributes:
        place: which candidate.
        score: what the surface is there, and its standard error.
        error: of the score.
        draws: [draws] int64, which candidate is lowest on surfaces drawn as the scores' noise allows; empty: unknown.
    """

    place: int
    score: float
    error: float
    draws: NDArray[np.int64]


def fitted(terms: NDArray[np.float64], scores: NDArray[np.float64]) -> Surface:
    """Least squares, with the covariance that the residuals' variance gives.

    Args:
        terms: [points, terms].
        scores: [points].
    """
    found, _, rank, _ = np.linalg.lstsq(terms, scores)
    coefficients = np.asarray(found, np.float64)
    freedom = len(scores) - int(rank)
    residuals = scores - terms @ coefficients
    variance = float(residuals @ residuals) / freedom if freedom > 0 else np.nan
    return Surface(coefficients, np.asarray(np.linalg.pinv(terms.T @ terms) * variance))


def lowest(surface: Surface, terms: NDArray[np.float64]) -> Lowest:
    """The candidate at which the surface is lowest.

    Args:
        terms: [candidates, terms].
    """
    scores = terms @ surface.coefficients
    place = int(np.argmin(scores))
    if not np.isfinite(surface.covariance).all():
        return Lowest(place, float(scores[place]), float("nan"), np.zeros(0, np.int64))
    values, vectors = np.linalg.eigh(surface.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0))
    noise = np.random.Generator(np.random.PCG64(2)).standard_normal((DRAWS, len(values)))
    drawn = [int(np.argmin(terms @ one)) for one in surface.coefficients + noise @ root.T]
    error = float(np.sqrt(max(0.0, terms[place] @ surface.covariance @ terms[place])))
    return Lowest(place, float(scores[place]), error, np.array(drawn))
