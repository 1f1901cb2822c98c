"""Draws of one sample in one pack: sent apart where another sample is as long, at no price in fill or limits."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.packing import Packs, duplicates_in_pack, plan, plan_windows


def repeated(samples: int, passes: int, most: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths and patches of `passes` passes over samples, and which sample each draw is of."""
    rng = np.random.default_rng(seed)
    lengths, patches = rng.integers(1, most + 1, samples), rng.integers(0, 40, samples)
    draws = np.concatenate([rng.permutation(samples) for _ in range(passes)])
    return lengths[draws], patches[draws], draws


@given(st.integers(1, 60), st.integers(2, 4), st.integers(1, 64), st.integers(0, 9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_repeats_are_kept_apart_at_no_price(samples: int, passes: int, most: int, seed: int, limited: bool) -> None:
    lengths, patches, draws = repeated(samples, passes, most, seed)
    limits = (patches, 60 if limited else None, 20 if limited else None)
    without = plan(lengths, 64, *limits)
    apart = plan(lengths, 64, *limits, samples=draws)
    assert len(duplicates_in_pack(apart, draws)) <= len(duplicates_in_pack(without, draws))
    assert sorted(apart.index.tolist()) == list(range(len(draws)))
    assert np.array_equal(apart.offsets, without.offsets)
    assert np.array_equal(apart.sums(lengths), without.sums(lengths))
    assert np.array_equal(apart.sums(lengths**2), without.sums(lengths**2))
    if limited:
        assert apart.sums(patches).max() <= 60


def test_with_samples_enough_of_a_length_none_meets_itself() -> None:
    lengths, patches, draws = repeated(400, 3, 8, 0)
    assert len(duplicates_in_pack(plan(lengths, 64, patches), draws)) > 10
    assert not len(duplicates_in_pack(plan(lengths, 64, patches, samples=draws), draws))


def test_windows_keep_repeats_apart_too() -> None:
    lengths, patches, draws = repeated(200, 3, 8, 0)
    before, _ = plan_windows(lengths, 64, 300, patches)
    after, borders = plan_windows(lengths, 64, 300, patches, samples=draws)
    assert not len(duplicates_in_pack(after, draws))
    assert len(duplicates_in_pack(before, draws))
    assert borders[-1] == len(after)


def test_duplicates_name_every_copy_but_the_first() -> None:
    packs = Packs(np.array([0, 1, 2, 3, 4]), np.array([0, 3, 5]), 2)
    assert duplicates_in_pack(packs, np.array([7, 7, 7, 7, 8])).tolist() == [1, 2]
    assert duplicates_in_pack(packs, np.array([1, 2, 3, 4, 5])).tolist() == []
