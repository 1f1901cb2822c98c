"""Packing: limits kept, errors that name the sample, orders and windows, and the same packs every time."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from mindvl_data.packing import (
    PackError,
    Packs,
    compiled,
    minimum_packs,
    order_packs,
    plan,
    plan_windows,
    step_balance,
)

Samples = tuple[NDArray[np.int32], NDArray[np.int32]]


@pytest.fixture(autouse=True)
def _machine_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled, however few samples: the kernels are cached, and packs are the same (test_compiled.py)."""
    monkeypatch.setattr(compiled, "FEW_SAMPLES", 0)


def mixture(n: int, capacity: int, seed: int = 0) -> Samples:
    """Lengths and patches of captions and pages: most are short, a few nearly fill a pack."""
    rng = np.random.default_rng(seed)
    vision = np.exp(rng.normal(np.log(capacity / 20), 0.6, n)) * (rng.random(n) < 0.9)
    vision[rng.random(n) < 0.1] = capacity // 3
    vision = np.minimum(vision.astype(np.int32), capacity // 2)
    text = np.minimum(np.exp(rng.normal(np.log(capacity / 50), 0.8, n)).astype(np.int32) + 1, capacity // 2)
    return text + vision, 4 * vision


def assert_sound(packs: Packs, lengths: NDArray[np.int32], capacity: int) -> None:
    assert np.array_equal(np.sort(packs.index), np.arange(len(lengths)))
    assert (np.diff(packs.offsets) > 0).all()
    assert (packs.sums(lengths) <= capacity).all()
    assert len(packs) >= packs.minimum_packs


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
        assert minimum_packs(counts, capacity) <= best(lengths, capacity)


def test_the_bound_knows_that_large_samples_cannot_share() -> None:
    # 60 % of 4,096 each: Σ length / capacity says 6 packs, but no two fit together.
    assert minimum_packs(np.bincount([2458] * 10, minlength=4097), 4096) == 10
    assert plan(np.full(10, 2458), 4096).minimum_packs == 10


def test_the_bound_counts_samples_and_patches_too() -> None:
    lengths, patches = np.full(12, 2), np.full(12, 5)
    assert plan(lengths, 8).minimum_packs == 3
    assert plan(lengths, 8, max_samples=2).minimum_packs == 6
    assert plan(lengths, 8, patches, max_patches=5).minimum_packs == 12


@pytest.mark.parametrize(("length", "words"), [(0, "length 0"), (-3, "length -3"), (9, "length 9")])
def test_a_length_that_cannot_be_packed_is_named(length: int, words: str) -> None:
    with pytest.raises(PackError, match=f"sample 2 has {words}; a pack holds 1 to 8 tokens"):
        plan(np.array([3, 4, length, 5]), 8)


def test_a_sample_that_alone_breaks_the_patch_limit_is_named() -> None:
    with pytest.raises(PackError, match="sample 1 has patches 7; a pack holds 0 to 6 patches"):
        plan(np.array([3, 4]), 8, np.array([6, 7]), max_patches=6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lengths": np.array([1.5, 2])}, "one column of integers"),
        ({"lengths": np.ones((2, 2), int)}, "one column of integers"),
        ({"patches": np.array([1])}, "2 lengths and 1 numbers of patches"),
        ({"max_patches": 4}, "max_patches needs the patches"),
        ({"max_samples": 0}, "at least one token and one sample"),
        ({"capacity": 0}, "at least one token and one sample"),
    ],
)
def test_what_makes_no_sense_is_said(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(PackError, match=words):
        plan(**{"lengths": np.array([1, 2]), "capacity": 8} | arguments)  # type: ignore[arg-type]


def test_no_samples_make_no_packs() -> None:
    packs = plan(np.zeros(0, np.int64), 8, np.zeros(0, np.int64), 5, 3)
    assert len(packs) == packs.minimum_packs == 0
    assert packs.offsets.tolist() == [0]


def test_indices_are_int32_and_any_integer_column_is_taken() -> None:
    lengths, patches = mixture(500, 512)
    packs = plan(lengths, 512, patches)
    assert packs.index.dtype == packs.offsets.dtype == np.int32
    for kind in (np.int64, np.uint16):
        assert np.array_equal(packs.index, plan(lengths.astype(kind), 512, patches.astype(kind)).index)


def test_exact_completion_fills_what_best_fit_would_leave_open() -> None:
    # Best fit puts 6 + 4 and 5 + 5 aside for 7 + 3; here every pack closes.
    lengths = np.array([7, 6, 5, 5, 4, 3] * 50)
    assert len(plan(lengths, 10)) == 150


@pytest.mark.parametrize("capacity", [512, 4096])
def test_balance_levels_both_costs_at_no_loss_of_fill(capacity: int) -> None:
    lengths, patches = mixture(60_000, capacity)
    plans = {balance: plan(lengths, capacity, patches, balance=balance) for balance in (False, True)}
    for packs in plans.values():
        assert_sound(packs, lengths, capacity)
    for costs in (lengths.astype(np.int64) ** 2, patches):
        spread = {balance: packs.sums(costs).std() for balance, packs in plans.items()}
        assert spread[True] < 0.8 * spread[False]
    assert len(plans[True]) <= len(plans[False]) * 1.0005


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("max_samples", [None, 16])
def test_two_limits_and_the_number_of_samples_hold_and_cost_little(balance: bool, max_samples: int | None) -> None:
    capacity = 4096
    lengths, patches = mixture(40_000, capacity)
    alone = plan(lengths, capacity, balance=balance)
    most = int(1.15 * patches.sum() / len(alone))
    assert (alone.sums(patches) > most).mean() > 0.01
    packs = plan(lengths, capacity, patches, most, max_samples, balance)
    assert_sound(packs, lengths, capacity)
    assert (packs.sums(patches) <= most).all()
    assert max_samples is None or np.diff(packs.offsets).max() <= max_samples
    assert len(packs) <= 1.001 * len(alone) + 1


def test_patches_that_bind_harder_than_tokens() -> None:
    lengths, patches = mixture(20_000, 4096)
    most = int(0.5 * patches.sum() / len(plan(lengths, 4096)))
    packs = plan(lengths, 4096, patches, max(most, int(patches.max())))
    assert_sound(packs, lengths, 4096)
    assert len(packs) <= 1.02 * packs.minimum_packs


def test_the_seed_says_which_samples_of_a_length_go_together() -> None:
    lengths, patches = mixture(3000, 512)
    first, again, other = (plan(lengths, 512, patches, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.index, again.index)
    assert not np.array_equal(first.index, other.index)
    assert np.array_equal(first.offsets, other.offsets)


def test_the_packs_do_not_depend_on_threads_or_the_process() -> None:
    code = (
        "import hashlib, numpy as np; from mindvl_data.packing import plan;"
        "rng = np.random.default_rng(0); lengths = rng.integers(1, 300, 1000); patches = rng.integers(0, 900, 1000);"
        "packs = plan(lengths, 1024, patches, 3000, 30);"
        "print(hashlib.sha256(packs.index.tobytes() + packs.offsets.tobytes()).hexdigest())"
    )
    environments = [{"NUMBA_NUM_THREADS": "1", "PYTHONHASHSEED": "1"}, {"OMP_NUM_THREADS": "4", "PYTHONHASHSEED": "2"}]
    outputs = {
        subprocess.run([sys.executable, "-c", code], env=os.environ | threads, capture_output=True, check=True).stdout
        for threads in environments
    }
    assert len(outputs) == 1


def test_importing_the_package_does_not_import_numba() -> None:
    code = "import sys, mindvl_data.packing; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_reordered_packs_are_those_named() -> None:
    packs = Packs(np.arange(6, dtype=np.int32), np.array([0, 1, 3, 6], np.int32), 3)
    some = packs.reordered(np.array([2, 0]))
    assert some.index.tolist() == [3, 4, 5, 0]
    assert some.offsets.tolist() == [0, 3, 4]
    assert packs.sums(np.arange(6)).tolist() == [0, 3, 12]


def test_balanced_steps_are_level_and_shuffled_ones_are_not() -> None:
    lengths, patches = mixture(100_000, 2048)
    packs = plan(lengths, 2048, patches)
    costs = [packs.sums(lengths.astype(np.int64) ** 2), packs.sums(patches)]
    figures = {}
    for rule in ("balanced", "shuffled"):
        order = order_packs(*costs, rule=rule, step=64, seed=0, name="x")
        figures[rule] = [step_balance(values[order], 64) for values in costs]
    assert max(figures["balanced"]) < 1.03
    assert max(figures["shuffled"]) > 1.2


def test_the_last_packs_of_a_balanced_order_are_any_packs() -> None:
    costs = np.arange(64 * 20 + 63)
    tail = order_packs(costs, costs, rule="balanced", step=64, seed=0, name="x")[-63:]
    assert 400 < tail.mean() < 900


@pytest.mark.parametrize("window", [100, 1000, 5000])
def test_windows_pack_samples_that_lie_close_together(window: int) -> None:
    lengths, patches = mixture(4000, 1024)
    packs, borders = plan_windows(lengths, 1024, window, patches, int(patches.max()) + 500, 40)
    assert_sound(packs, lengths, 1024)
    assert borders[-1] == len(packs)
    assert len(borders) == -(-4000 // window) + 1
    window_of = np.repeat(np.repeat(np.arange(len(borders) - 1), np.diff(borders)), np.diff(packs.offsets))
    age = window_of - packs.index // window
    assert age.min() >= 0
    assert age.max() <= 4
    assert (packs.sums(patches) <= patches.max() + 500).all()
    assert np.diff(packs.offsets).max() <= 40


def test_one_window_is_a_plan_of_everything() -> None:
    lengths, patches = mixture(1000, 1024)
    packs, borders = plan_windows(lengths, 1024, 1000, patches)
    assert np.array_equal(packs.index, plan(lengths, 1024, patches).index)
    assert borders.tolist() == [0, len(packs)]


def test_an_order_with_windows_keeps_packs_in_them_but_for_less_than_a_step() -> None:
    costs, borders = np.random.default_rng(0).integers(1, 100, (2, 700)), np.array([0, 130, 400, 700])
    order = order_packs(*costs, rule="balanced", step=16, seed=0, name="x", borders=borders)
    assert np.array_equal(np.sort(order), np.arange(700))
    places = np.empty(700, int)
    places[order] = np.arange(700)
    for first, last in itertools.pairwise(borders):
        assert places[first:last].min() >= first - 16
        assert places[first : last // 16 * 16].max() < last
