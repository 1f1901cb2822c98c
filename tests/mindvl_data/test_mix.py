"""Mixing: shares to within one sample, prefixes, and independence of the sources from each other."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.mix import Draw, MixError, Pool, draw


def make_pool(name: str, tokens: list[int], first: int = 0) -> Pool:
    ids = b"".join(hashlib.sha256(f"{name}{i}".encode()).digest()[:16] for i in range(len(tokens)))
    return Pool(
        np.arange(first, first + len(tokens)),
        np.frombuffer(ids, np.uint8).reshape(-1, 16),
        np.array(tokens, np.int64),
    )


def drawn(pools: dict[str, Pool], shares: dict[str, float], tokens: int | None, **more: object) -> Draw:
    settings: dict = {"epochs": None, "max_repeats": 1e9, "seed": 1, "stage": "s", **more}
    return draw(pools, shares, tokens=tokens, **settings)


lengths = st.lists(st.integers(1, 500), min_size=1, max_size=60)


@given(lengths, lengths, st.floats(0.01, 0.99), st.integers(1, 20_000))
@settings(max_examples=200, deadline=None)
def test_each_source_ends_within_one_sample_of_its_share(a: list[int], b: list[int], share: float, tokens: int) -> None:
    pools = {"a": make_pool("a", a), "b": make_pool("b", b, len(a))}
    found = drawn(pools, {"a": share, "b": 1 - share}, tokens)
    weight = np.array(a + b)
    for name, part in (("a", share), ("b", 1 - share)):
        mine = np.isin(found.samples, pools[name].samples)
        got = weight[found.samples[mine]].sum()
        assert -1e-6 <= got - tokens * part < max(pools[name].tokens) + 1e-6


@given(lengths, lengths, st.integers(1, 5_000), st.integers(1, 5_000))
@settings(deadline=None)
def test_a_smaller_budget_is_a_prefix_of_a_larger_one(a: list[int], b: list[int], small: int, more: int) -> None:
    pools = {"a": make_pool("a", a), "b": make_pool("b", b, len(a))}
    first = drawn(pools, {"a": 0.3, "b": 0.7}, small)
    second = drawn(pools, {"a": 0.3, "b": 0.7}, small + more)
    assert np.array_equal(second.samples[: len(first.samples)], first.samples)
    assert np.array_equal(second.repeats[: len(first.repeats)], first.repeats)


def test_another_source_does_not_reshuffle_the_others() -> None:
    a, b, c = make_pool("a", [10] * 50), make_pool("b", [10] * 50, 50), make_pool("c", [10] * 50, 100)
    two = drawn({"a": a, "b": b}, {"a": 0.5, "b": 0.5}, 400)
    three = drawn({"a": a, "b": b, "c": c}, {"a": 0.25, "b": 0.25, "c": 0.5}, 800)
    for pool in (a, b):
        of_two = two.samples[np.isin(two.samples, pool.samples)]
        of_three = three.samples[np.isin(three.samples, pool.samples)]
        assert np.array_equal(of_two, of_three)


def test_every_pass_takes_all_samples_in_another_order() -> None:
    found = drawn({"a": make_pool("a", [1] * 100)}, {"a": 1.0}, 300)
    passes = [found.samples[found.repeats == r].tolist() for r in range(3)]
    assert [sorted(p) for p in passes] == [list(range(100))] * 3
    assert passes[0] != passes[1] != passes[2]
    assert found.repeats.tolist() == [0] * 100 + [1] * 100 + [2] * 100


@pytest.mark.parametrize("epochs", [0.5, 1, 2])
def test_epochs_are_the_largest_budget_that_passes_no_source_more_often(epochs: float) -> None:
    pools = {"a": make_pool("a", [7] * 100), "b": make_pool("b", [3] * 40, 100)}
    found = drawn(pools, {"a": 0.5, "b": 0.5}, None, epochs=epochs)
    counts = np.bincount(found.samples, minlength=140)
    assert counts.max() == max(1, epochs)
    assert counts[100:].sum() == 40 * epochs
    assert counts[:100].sum() == np.ceil(40 * 3 * epochs / 7)


def test_too_many_repeats_say_how_much_is_missing_and_what_would_work() -> None:
    pools = {"a": make_pool("a", [10] * 10), "b": make_pool("b", [10] * 1000, 10)}
    with pytest.raises(
        MixError, match=r"pass a 5\.00 times, max_repeats is 4.*100 tokens here, 25 too few.*at most 800"
    ):
        drawn(pools, {"a": 0.5, "b": 0.5}, 1000, max_repeats=4)
    assert len(drawn(pools, {"a": 0.5, "b": 0.5}, 800, max_repeats=4).samples) == 80


def test_an_empty_source_is_named() -> None:
    with pytest.raises(MixError, match="source a has no sample left"):
        drawn({"a": make_pool("a", [])}, {"a": 1.0}, 10)


def test_a_frozen_draw_stays_frozen() -> None:
    pools = {"a": make_pool("a", [5] * 8), "b": make_pool("b", [9] * 8, 8)}
    assert drawn(pools, {"a": 0.4, "b": 0.6}, 60).samples.tolist() == GOLDEN


GOLDEN = [4, 11, 7, 12, 1, 10, 5, 15, 2]
