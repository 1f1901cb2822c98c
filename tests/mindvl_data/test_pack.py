"""Packing: every sample once, no pack over capacity, and the bound is a bound."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mindvl_data.pack import PackError, lower_bound, order_packs, plan, step_balance


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.int64], int]:
    capacity = draw(st.integers(1, 300))
    low = draw(st.integers(1, capacity))
    lengths = draw(st.lists(st.integers(low, capacity), max_size=200))
    return np.array(lengths, np.int64), capacity


@given(problems())
@settings(max_examples=300, deadline=None)
def test_every_sample_is_packed_once_and_no_pack_overflows(problem: tuple[NDArray[np.int64], int]) -> None:
    lengths, capacity = problem
    packs = plan(lengths, capacity)
    assert sorted(packs.index) == list(range(len(lengths)))
    assert (np.diff(packs.offsets) > 0).all()
    assert (packs.sums(lengths) <= capacity).all()
    assert len(packs) >= packs.lower_bound >= -(-int(lengths.sum()) // capacity)


def best(lengths: tuple[int, ...], capacity: int) -> int:
    """The fewest packs there can be, by trying every assignment (canonical: a sample opens at most one new pack)."""

    def fill(rest: tuple[int, ...], room: list[int]) -> int:
        if not rest:
            return len(room)
        options = [fill(rest[1:], [*room, capacity - rest[0]])]
        for i, left in enumerate(room):
            if left >= rest[0]:
                options.append(fill(rest[1:], [*room[:i], left - rest[0], *room[i + 1 :]]))
        return min(options)

    return fill(lengths, [])


def test_the_lower_bound_never_passes_the_optimum() -> None:
    capacity = 10
    for lengths in itertools.combinations_with_replacement(range(2, 11), 5):
        counts = np.bincount(lengths, minlength=capacity + 1)
        assert lower_bound(counts, capacity) <= best(lengths, capacity)


def test_the_bound_knows_that_large_samples_cannot_share() -> None:
    # 60 % of 4,096 each: Σ length / capacity says 6 packs, but no two fit together.
    assert lower_bound(np.bincount([2458] * 10, minlength=4097), 4096) == 10


@pytest.mark.parametrize(("length", "words"), [(0, "length 0"), (-3, "length -3"), (9, "length 9")])
def test_a_length_that_cannot_be_packed_is_named(length: int, words: str) -> None:
    with pytest.raises(PackError, match=f"sample 2 has {words}; a pack holds 1 to 8"):
        plan(np.array([3, 4, length, 5]), 8)


def test_exact_completion_fills_what_best_fit_would_leave_open() -> None:
    # Best fit puts 6 + 4 and 5 + 5 aside for 7 + 3; here every pack closes.
    lengths = np.array([7, 6, 5, 5, 4, 3] * 50)
    assert len(plan(lengths, 10)) == 150


@given(st.integers(0, 300), st.integers(1, 20), st.sampled_from(["balanced", "shuffled"]))
@settings(deadline=None)
def test_an_order_is_a_permutation_drawn_from_its_name(n: int, step: int, rule: str) -> None:
    costs = np.random.default_rng(n).integers(1, 1000, (2, n))
    order = order_packs(*costs, rule=rule, step=step, seed=3, name="a")
    assert sorted(order) == list(range(n))
    assert np.array_equal(order, order_packs(*costs, rule=rule, step=step, seed=3, name="a"))
    if n > 20:
        assert not np.array_equal(order, order_packs(*costs, rule=rule, step=step, seed=3, name="b"))


def test_balanced_steps_are_level_and_shuffled_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    attention, vision = np.exp(rng.normal(0, 0.7, 8192)).astype(np.float64) * 1e6, rng.integers(100, 200, 8192)
    attention = attention.astype(np.int64)
    figures = {}
    for rule in ("balanced", "shuffled"):
        order = order_packs(attention, vision, rule=rule, step=64, seed=0, name="x")
        figures[rule] = step_balance(attention[order], 64)
    assert figures["balanced"] < 1.4 < 2 < figures["shuffled"]
