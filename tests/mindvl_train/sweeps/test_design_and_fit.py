"""Which mixtures a sweep tries, and what a quadratic makes of their scores."""

import numpy as np
import pytest

from mindvl_train.sweeps.design import candidates, quadratic, simplex, with_share
from mindvl_train.sweeps.fit import fitted, lowest


@pytest.mark.parametrize("sets", [2, 3, 5])
def test_a_design_covers_the_simplex_and_determines_a_quadratic(sets: int) -> None:
    found = simplex(sets, None, 0.02)
    assert len(found) == 2 * sets + sets * (sets - 1) // 2 + 1
    assert np.allclose(found.sum(axis=1), 1)
    assert found.min() == pytest.approx(0.02)
    terms = quadratic(found)
    assert np.linalg.matrix_rank(terms) == terms.shape[1] == sets * (sets + 1) // 2
    assert len(simplex(sets, 30, 0.02)) == 30
    with pytest.raises(ValueError, match=f"a quadratic over {sets} sets needs"):
        simplex(sets, sets * (sets + 1) // 2 - 1, 0.02)
    with pytest.raises(ValueError, match="cannot all have"):
        simplex(sets, None, 1 / sets)


def test_terms_by_hand() -> None:
    assert quadratic(np.array([[0.2, 0.3, 0.5]])).tolist() == [[0.2, 0.3, 0.5, 0.06, 0.1, 0.15]]
    assert with_share(np.array([0.2, 0.3, 0.5]), 2, 0.75).tolist() == pytest.approx([0.1, 0.15, 0.75])


def test_the_lowest_place_of_a_known_bowl_is_found_and_noise_is_its_uncertainty() -> None:
    best = np.array([0.6, 0.3, 0.1])
    mixtures, among = simplex(3, 20, 0.02), candidates(3, 0.02)

    def scores(noise: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        return ((mixtures - best) ** 2).sum(axis=1) + noise * rng.normal(size=len(mixtures))

    exact = lowest(fitted(quadratic(mixtures), scores(0)), quadratic(among))
    assert among[exact.place] == pytest.approx(best, abs=0.02)
    spread = []
    for noise in (0.001, 0.02):
        found = lowest(fitted(quadratic(mixtures), scores(noise)), quadratic(among))
        deviations = among[found.draws].std(axis=0)
        assert np.abs(among[found.place] - best).max() < max(0.02, 4 * deviations.max())
        spread.append(deviations.max())
    assert spread[1] > 5 * spread[0]


def test_as_many_scores_as_coefficients_say_nothing_of_their_noise() -> None:
    mixtures = simplex(3, 6, 0.02)
    found = lowest(fitted(quadratic(mixtures), np.arange(6.0)), quadratic(candidates(3, 0.02)))
    assert np.isnan(found.error)
    assert not len(found.draws)
