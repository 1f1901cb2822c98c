"""Packing over adversarial lengths: every sample once, no limit broken, never worse than best-fit decreasing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mindvl_data.packing import order_packs, plan, plan_windows, step_balance
from mindvl_data.packing.best_fit import best_fit_decreasing
from mindvl_data.packing.packs import UNLIMITED, Packs

Numbers = NDArray[np.int64]
EXAMPLES = settings(max_examples=200, deadline=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Numbers, int]:
    """Lengths of every kind: few values or many, small ones only, none small, halves and thirds and one beyond."""
    capacity = draw(st.integers(1, 400))
    low = draw(st.integers(1, capacity))
    high = draw(st.integers(low, capacity))
    near = [capacity // k + d for k in (1, 2, 3, 4, 7) for d in (-1, 0, 1)]
    edges = st.sampled_from([value for value in near if 1 <= value <= capacity])
    lengths = draw(st.lists(st.one_of(st.integers(low, high), edges), max_size=150))
    return np.repeat(np.array(lengths, np.int64), draw(st.integers(1, 4))), capacity


@st.composite
def limited(draw: st.DrawFn) -> tuple[Numbers, int, Numbers, int, int]:
    lengths, capacity = draw(problems())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    most = draw(st.integers(0, 300))
    patches = rng.integers(0, most + 1, len(lengths)) * (rng.random(len(lengths)) < draw(st.floats(0, 1)))
    return lengths, capacity, patches, most, draw(st.sampled_from([1, 2, 5, 50, UNLIMITED]))


def best_fit(lengths: Numbers, capacity: int, max_samples: int) -> int:
    """Packs of best-fit decreasing, sample by sample; of the tightest packs the one touched last takes it."""
    packs: list[list[int]] = []  # residual and samples of each, that touched last at the end
    for length in sorted(lengths.tolist(), reverse=True):
        tightest = [capacity, 0]
        found = [i for i, (residual, held) in enumerate(packs) if residual >= length and held < max_samples]
        if found:
            tightest = packs.pop(min(reversed(found), key=lambda i: packs[i][0]))
        packs.append([tightest[0] - length, tightest[1] + 1])
    return len(packs)


def first_fit_in_two(lengths: Numbers, capacity: int, patches: Numbers, most: int, max_samples: int) -> int:
    """Packs of two-dimensional first-fit decreasing: by length, then patches."""
    packs: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], -patches[i], i)):
        need = [int(lengths[i]), int(patches[i]), 1]
        found = next((pack for pack in packs if all(a >= b for a, b in zip(pack, need, strict=True))), None)
        if found is None:
            found = [capacity, most, max_samples]
            packs.append(found)
        found[:] = [a - b for a, b in zip(found, need, strict=True)]
    return len(packs)


def assert_sound(packs: Packs, lengths: Numbers, capacity: int) -> None:
    assert np.array_equal(np.sort(packs.index), np.arange(len(lengths)))
    assert packs.offsets[0] == 0
    assert packs.offsets[-1] == len(lengths)
    assert (np.diff(packs.offsets) > 0).all()
    assert (packs.sums(lengths) <= capacity).all()
    assert len(packs) >= packs.minimum_packs >= -(-int(lengths.sum()) // capacity)


@given(problems(), st.booleans())
@EXAMPLES
def test_one_limit(problem: tuple[Numbers, int], balance: bool) -> None:
    lengths, capacity = problem
    packs = plan(lengths, capacity, balance=balance)
    assert_sound(packs, lengths, capacity)
    assert len(packs) <= best_fit(lengths, capacity, UNLIMITED)


@given(problems())
@EXAMPLES
def test_balance_costs_at_most_a_twentieth_of_a_point(problem: tuple[Numbers, int]) -> None:
    lengths, capacity = problem
    if len(lengths):
        fills = [lengths.sum() / capacity / len(plan(lengths, capacity, balance=balance)) for balance in (False, True)]
        assert fills[1] >= fills[0] - 0.0005


@given(problems(), st.sampled_from([1, 2, 3, 10, UNLIMITED]))
@EXAMPLES
def test_best_fit_on_counts_makes_as_many_packs_as_on_samples(problem: tuple[Numbers, int], max_samples: int) -> None:
    lengths, capacity = problem
    counts = np.bincount(lengths, minlength=capacity + 1)
    rows, _ = best_fit_decreasing(counts, capacity, max_samples)
    assert rows[:, 0].sum() == best_fit(lengths, capacity, max_samples)


@given(problems(), st.integers(1, 20), st.booleans())
@EXAMPLES
def test_a_limit_on_samples(problem: tuple[Numbers, int], max_samples: int, balance: bool) -> None:
    lengths, capacity = problem
    packs = plan(lengths, capacity, max_samples=max_samples, balance=balance)
    assert_sound(packs, lengths, capacity)
    assert (np.diff(packs.offsets) <= max_samples).all()
    assert len(packs) <= best_fit(lengths, capacity, max_samples)


@given(limited(), st.booleans())
@EXAMPLES
def test_two_limits(problem: tuple[Numbers, int, Numbers, int, int], balance: bool) -> None:
    lengths, capacity, patches, most, max_samples = problem
    packs = plan(lengths, capacity, patches, most, max_samples, balance)
    assert_sound(packs, lengths, capacity)
    assert (packs.sums(patches) <= most).all()
    assert (np.diff(packs.offsets) <= max_samples).all()
    assert len(packs) <= first_fit_in_two(lengths, capacity, patches, most, max_samples)


@given(limited(), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_windows(problem: tuple[Numbers, int, Numbers, int, int], window: int) -> None:
    lengths, capacity, patches, most, max_samples = problem
    packs, borders = plan_windows(lengths, capacity, window, patches, most, max_samples)
    assert_sound(packs, lengths, capacity)
    assert (packs.sums(patches) <= most).all()
    assert (np.diff(packs.offsets) <= max_samples).all()
    window_of = np.repeat(np.repeat(np.arange(len(borders) - 1), np.diff(borders)), np.diff(packs.offsets))
    assert set((window_of - packs.index // window).tolist()) <= set(range(5))


@given(st.integers(0, 700), st.integers(1, 20), st.sampled_from(["balanced", "shuffled"]))
@EXAMPLES
def test_an_order_is_a_permutation_drawn_from_its_name(n: int, step: int, rule: str) -> None:
    costs = np.random.default_rng(n).integers(0, 4 + n % 1000, (2, n))
    order = order_packs(*costs, rule=rule, step=step, seed=3, name="a")
    assert np.array_equal(np.sort(order), np.arange(n))
    assert np.array_equal(order, order_packs(*costs, rule=rule, step=step, seed=3, name="a"))
    if n > 20:
        assert not np.array_equal(order, order_packs(*costs, rule=rule, step=step, seed=3, name="b"))


@pytest.mark.parametrize(("costs", "expected"), [([], 1.0), ([0, 0], 1.0), ([1, 3, 2, 2, 9], 1.25), ([1, 3], 1.5)])
def test_step_balance_is_the_wait_for_the_busiest(costs: list[int], expected: float) -> None:
    step = 2 if len(costs) > 2 else 4
    assert step_balance(np.array(costs, np.int64), step) == pytest.approx(expected)
