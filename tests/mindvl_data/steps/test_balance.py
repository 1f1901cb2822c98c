"""How many of each group stay, and which."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.steps.balance import capped, flattened, staying

SIZES = st.lists(st.integers(0, 200), min_size=1, max_size=12)


@settings(deadline=None)
@given(SIZES, st.floats(0.01, 1), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_a_share_is_kept_whole_and_no_group_gives_more_than_it_has(
    sizes: list[int], share: float, exponent: float
) -> None:
    found = flattened(np.array(sizes), share, exponent)
    assert found.sum() == round(share * sum(sizes))
    assert (found >= 0).all()
    assert (found <= sizes).all()
    # The larger of two groups never keeps less; at exponent 0 what is not used up keeps alike.
    for size, kept in zip(sizes, found, strict=True):
        for other, theirs in zip(sizes, found, strict=True):
            assert size < other or kept >= theirs - 1
            if exponent == 0 and kept < size and theirs < other:
                assert abs(kept - theirs) <= 1


@pytest.mark.parametrize(("exponent", "expected"), [(0, [10, 45, 45]), (1, [1, 9, 90]), (0.5, [8, 22, 70])])
def test_flattened_counts_by_hand(exponent: float, expected: list[int]) -> None:
    # At 0.5 the weights are √10 : √90 : √900, of 100 that is 7.42, 22.26, 70.37.
    assert flattened(np.array([10, 90, 900]), 0.1, exponent).tolist() == expected


def test_a_cap_is_a_cap() -> None:
    assert capped(np.array([1, 5, 9]), 5).tolist() == [1, 5, 5]


def ids(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16), dtype=np.uint8)


def test_which_stay_is_by_preference_else_by_a_hash_and_those_without_a_group_do() -> None:
    groups = np.array([0, 0, 0, 1, 1, -1, -1])
    prefer = np.array([0.1, 0.9, np.nan, 0.5, 0.6, np.nan, 0.0])
    assert staying(groups, np.array([2, 1]), ids(7), prefer, 0).tolist() == [True, True, False, False, True, True, True]
    many = np.zeros(1000, np.int64)
    one, other = (staying(many, np.array([500]), ids(1000), None, seed) for seed in (0, 1))
    assert one.sum() == other.sum() == 500
    assert 200 < (one & other).sum() < 300
    order = np.random.default_rng(1).permutation(1000)
    assert np.array_equal(staying(many, np.array([500]), ids(1000)[order], None, 0), one[order])
    assert staying(np.full(3, -1), np.zeros(0, np.int64), ids(3), None, 0).all()
