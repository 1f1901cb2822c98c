"""The held-out set: what shares a picture is on one side, and the share is met."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.steps.holdout import held_out
from mindvl_data.tables.store import starts_of


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), min_size=1, max_size=60), st.floats(0.05, 0.9))
def test_no_picture_is_on_both_sides(samples: list[list[int]], share: float) -> None:
    content = np.array([c * 2**55 + c for sample in samples for c in sample], np.uint64)
    held = held_out(content, starts_of(np.array([len(s) for s in samples])), share, 1)
    inside = {c for sample, h in zip(samples, held, strict=True) for c in sample if h}
    outside = {c for sample, h in zip(samples, held, strict=True) for c in sample if not h}
    assert not inside & outside


def test_samples_connected_only_through_others_stand_together() -> None:
    chain = np.array([i + d for i in range(50) for d in (0, 1)], np.uint64)
    assert len(set(held_out(chain, np.arange(51) * 2, 0.5, 3))) == 1


def test_the_share_is_met_and_another_seed_draws_others() -> None:
    content = np.random.default_rng(0).integers(0, 2**64, 20_000, np.uint64)
    starts = np.arange(20_001)
    held = held_out(content, starts, 0.05, 7)
    assert 0.045 < held.mean() < 0.055
    assert (held != held_out(content, starts, 0.05, 8)).any()
    # A sample keeps its side when others come or go.
    assert np.array_equal(held[:100], held_out(content[:100], starts[:101], 0.05, 7))


def test_nothing_is_held_out_of_nothing() -> None:
    assert len(held_out(np.zeros(0, np.uint64), np.zeros(1, np.int64), 0.5, 0)) == 0
