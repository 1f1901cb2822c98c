"""Mixing: shares to within half a sample in every measure, prefixes, sources that do not move each other."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data.recipe import Budget, Group
from mindvl_data.steps.mix import Asked, Draw, MixError, Pool, ask, check_repeats, draw
from mindvl_data.tables import columns

MEASURES = ("tokens", "samples", "loss_tokens")


def make_pools(sources: Mapping[str, list[int]], by: str = "tokens") -> dict[str, Pool]:
    """Pools over the same columns, one source after the other."""
    ids = b"".join(
        hashlib.sha256(f"{name}{i}".encode()).digest()[:16]
        for name, tokens in sources.items()
        for i in range(len(tokens))
    )
    counts = np.concatenate([np.array(tokens, np.int64) for tokens in sources.values()])
    measure = {"tokens": counts, "samples": None, "loss_tokens": -(-counts // 3)}[by]
    ends = np.cumsum([len(tokens) for tokens in sources.values()])
    rows = [np.arange(end - len(tokens), end) for end, tokens in zip(ends, sources.values(), strict=True)]
    columns = (np.frombuffer(ids, np.uint8).reshape(-1, 16), counts, measure)
    return {name: Pool(mine, *columns) for name, mine in zip(sources, rows, strict=True)}


def group(**members: Any) -> Group:
    return Group.model_validate(members)


def drawn(pools: dict[str, Pool], mixture: Group, by: str = "tokens", **budget: float) -> Draw:
    asked = ask(pools, mixture, Budget.model_validate(budget) if budget else None, by, "s")
    return draw(pools, asked, seed=1, stage="s")


def measured(pools: dict[str, Pool], found: Draw) -> dict[str, int]:
    """What was drawn of each source, in what its shares are shares of."""
    sums = {}
    for name, pool in pools.items():
        rows = found.samples[np.isin(found.samples, pool.samples)]
        sums[name] = len(rows) if pool.measure is None else int(pool.measure[rows].sum())
    return sums


def largest(pool: Pool) -> int:
    return 1 if pool.measure is None else int(pool.measure[pool.samples].max())


lengths = st.lists(st.integers(1, 500), min_size=1, max_size=60)
measures = st.sampled_from(MEASURES)
budgets = st.one_of(
    st.fixed_dictionaries({"tokens": st.integers(1, 20_000)}), st.fixed_dictionaries({"samples": st.integers(1, 200)})
)


@given(st.lists(st.tuples(lengths, st.integers(1, 50)), min_size=1, max_size=5), measures, budgets)
@settings(max_examples=300, deadline=None)
def test_each_source_ends_within_half_a_sample_of_its_share(
    sources: list[tuple[list[int], int]], by: str, budget: dict[str, int]
) -> None:
    weights = {name: weight for name, (_, weight) in zip("abcde", sources, strict=False)}
    pools = make_pools({name: tokens for name, (tokens, _) in zip("abcde", sources, strict=False)}, by)
    parts = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    got = measured(pools, drawn(pools, group(**parts), by, **budget))
    # There is one amount of the whole of which every source has its share to within half a sample.
    least = max((got[name] - largest(pools[name]) / 2) / part for name, part in parts.items())
    most = min((got[name] + largest(pools[name]) / 2) / part for name, part in parts.items())
    assert least <= most + 1e-6
    if list(budget) == [by]:
        assert least - 1e-6 <= budget[by] <= most + 1e-6 or by == "samples"


@given(lengths, lengths, st.integers(1, 20_000), measures)
@settings(max_examples=200, deadline=None)
def test_a_budget_in_tokens_or_samples_is_reached_and_no_sample_more_is_drawn(
    a: list[int], b: list[int], tokens: int, by: str
) -> None:
    pools = make_pools({"a": a, "b": b}, by)
    weight = np.array(a + b)
    found = drawn(pools, group(a=0.4, b=0.6), by, tokens=tokens)
    total = int(weight[found.samples].sum())
    if by == "tokens":  # every source as near its share as can be
        assert abs(total - tokens) <= (max(a) + max(b)) / 2
    else:
        assert total - weight[found.samples[-1]] < tokens <= total
    assert len(drawn(pools, group(a=0.4, b=0.6), by, samples=77)) == 77


@given(lengths, lengths, measures, st.integers(1, 5_000), st.integers(1, 5_000))
@settings(max_examples=200, deadline=None)
def test_a_smaller_budget_is_a_prefix_of_a_larger_one(
    a: list[int], b: list[int], by: str, small: int, more: int
) -> None:
    pools = make_pools({"a": a, "b": b}, by)
    first = drawn(pools, group(a=0.3, b=0.7), by, tokens=small)
    second = drawn(pools, group(a=0.3, b=0.7), by, tokens=small + more)
    assert np.array_equal(second.samples[: len(first)], first.samples)
    assert np.array_equal(second.repeats[: len(first)], first.repeats)


@given(lengths, lengths, lengths, measures)
@settings(deadline=None)
def test_another_source_does_not_reshuffle_the_others(a: list[int], b: list[int], c: list[int], by: str) -> None:
    pools = make_pools({"a": a, "b": b, "c": c}, by)
    two = drawn({name: pools[name] for name in "ab"}, group(a=0.5, b=0.5), by, tokens=3000)
    three = drawn(pools, group(a=0.25, more={"share": 0.75, "b": 0.4, "c": 0.6}), by, tokens=3000)
    for name in "ab":
        of_two = two.samples[np.isin(two.samples, pools[name].samples)]
        of_three = three.samples[np.isin(three.samples, pools[name].samples)]
        both = min(len(of_two), len(of_three))
        assert np.array_equal(of_two[:both], of_three[:both])


def test_over_ten_million_tokens_shares_are_met_to_a_tenth_of_a_point() -> None:
    rng = np.random.default_rng(3)
    sources = {name: rng.integers(8, 4097, size).tolist() for name, size in (("a", 900), ("b", 5000), ("c", 300))}
    for by in MEASURES:
        pools = make_pools(sources, by)
        got = measured(pools, drawn(pools, group(a=0.25, b=0.7, c=0.05), by, tokens=10_000_000))
        for name, share in (("a", 0.25), ("b", 0.7), ("c", 0.05)):
            assert abs(got[name] / sum(got.values()) - share) < 0.001


def test_every_pass_takes_all_samples_in_another_order() -> None:
    found = drawn(make_pools({"a": [1] * 100}), group(a=1.0), tokens=300)
    passes = [found.samples[found.repeats == r].tolist() for r in range(3)]
    assert [sorted(p) for p in passes] == [list(range(100))] * 3
    assert passes[0] != passes[1] != passes[2]
    assert found.repeats.tolist() == [0] * 100 + [1] * 100 + [2] * 100


@pytest.mark.parametrize("by", MEASURES)
def test_draws_are_merged_alike_whatever_lies_in_a_stretch(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Equal lengths and shares: sources meet at the same points of the axis, where the first named comes first.
    pools = make_pools({"a": [4] * 50, "b": [4] * 50, "c": [1, 9] * 40}, by)
    mixture = group(a=0.25, b=0.25, c=0.5)
    whole = drawn(pools, mixture, by, tokens=700)
    monkeypatch.setattr(columns, "CHUNK", 7)
    parts = drawn(pools, mixture, by, tokens=700)
    assert np.array_equal(parts.samples, whole.samples)
    assert np.array_equal(parts.repeats, whole.repeats)


# -------------------------------------------------------------------------------------- epochs, repeats


@pytest.mark.parametrize("epochs", [0.5, 1, 2])
def test_epochs_are_the_largest_budget_that_passes_no_source_more_often(epochs: float) -> None:
    pools = make_pools({"a": [7] * 100, "b": [3] * 40})
    found = drawn(pools, group(a=0.5, b=0.5), epochs=epochs)
    counts = np.bincount(found.samples, minlength=140)
    assert counts.max() == max(1, epochs)
    assert counts[100:].sum() == 40 * epochs
    assert counts[:100].sum() == round(40 * 3 * epochs / 7)


@given(st.lists(st.tuples(lengths, st.integers(1, 5)), min_size=1, max_size=4), measures)
@settings(deadline=None)
def test_each_source_is_passed_as_often_as_its_epochs_say(sources: list[tuple[list[int], int]], by: str) -> None:
    names = "abcd"[: len(sources)]
    pools = make_pools(dict(zip(names, (tokens for tokens, _ in sources), strict=True)), by)
    members = {name: {"epochs": epochs} for name, (_, epochs) in zip(names, sources, strict=True)}
    found = drawn(pools, group(a=members["a"], rest=rest) if (rest := _rest(members)) else group(**members), by)
    counts = np.bincount(found.samples)
    for name, (_, epochs) in zip(names, sources, strict=True):
        assert (counts[pools[name].samples] == epochs).all()


def _rest(members: dict[str, Any]) -> dict[str, Any]:
    return {name: member for name, member in members.items() if name != "a"}


def test_epochs_beside_a_budget_say_the_proportions() -> None:
    pools = make_pools({"a": [10] * 30, "b": [10] * 20})
    counts = np.bincount(drawn(pools, group(a={"epochs": 2}, b={"epochs": 1}), tokens=400).samples, minlength=50)
    assert counts[:30].sum() == 30
    assert counts[30:].sum() == 10


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("tokens", r"pass a 5\.00 times, max_epochs is 4.*100 tokens here, 25 too few.*at most 800 tokens"),
        ("samples", r"50 samples.*pass a 5\.00 times.*10 samples here, 3 too few.*at most 80 samples"),
        ("loss_tokens", r"pass a 5\.00 times.*40 loss tokens here, 10 too few.*at most 320 loss tokens"),
    ],
)
def test_too_many_repeats_say_how_much_is_missing_and_what_would_work(by: str, words: str) -> None:
    pools = make_pools({"a": [10] * 10, "b": [10] * 1000}, by)
    mixture = group(a=0.5, b=0.5)
    asked = ask(pools, mixture, Budget(tokens=1000), by, "s")
    with pytest.raises(MixError, match=words.replace("50 samples", "100 samples")):
        check_repeats(pools, asked, 4, by, "s")
    fewer = ask(pools, mixture, Budget(tokens=800), by, "s")
    check_repeats(pools, fewer, 4, by, "s")
    assert len(draw(pools, fewer, 1, "s")) == 80


def test_an_empty_source_is_named() -> None:
    with pytest.raises(MixError, match="source a has no sample left"):
        drawn(make_pools({"a": []}), group(a=1.0), tokens=10)


# --------------------------------------------------------------------------- shares, groups, temperature


def shares(mixture: Group, **sizes: int) -> dict[str, float]:
    asked = ask(make_pools({name: [1] * size for name, size in sizes.items()}), mixture, Budget(tokens=1), "tokens", "")
    return dict(asked.shares)


def test_a_group_divides_its_own_share() -> None:
    mixture = group(text=0.2, caption={"share": 0.5, "ccs": 0.3, "dfn": 0.7}, rest={"vqa": 0.5, "ocr": 0.5})
    found = shares(mixture, text=1, ccs=1, dfn=1, vqa=1, ocr=1)
    assert found == pytest.approx({"text": 0.2, "ccs": 0.15, "dfn": 0.35, "vqa": 0.15, "ocr": 0.15})
    assert shares(group(caption={"ccs": 0.3, "dfn": 0.7}), ccs=9, dfn=1) == pytest.approx({"ccs": 0.3, "dfn": 0.7})


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0.2, 50))
@settings(deadline=None)
def test_temperature_flattens_shares_by_size(a: int, b: int, temperature: float) -> None:
    found = shares(group(temperature=temperature, a=1, b=1), a=a, b=b)
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] / found["b"] == pytest.approx((a / b) ** (1 / temperature), rel=1e-6)


def test_temperature_one_is_by_size_and_a_number_weighs_a_source() -> None:
    assert shares(group(temperature=1, a=1, b=1), a=30, b=10) == pytest.approx({"a": 0.75, "b": 0.25})
    assert shares(group(temperature=1, a=1, b=3), a=30, b=10) == pytest.approx({"a": 0.5, "b": 0.5})
    mixture = group(t=0.5, rest={"share": 0.5, "temperature": 2, "a": 1, "b": 1})
    assert shares(mixture, t=1, a=90, b=10) == pytest.approx({"t": 0.5, "a": 0.375, "b": 0.125})


def test_epochs_are_the_same_as_temperature_one_with_weights() -> None:
    by_epochs = shares(group(a={"epochs": 2}, rest={"b": {"epochs": 1}, "c": {"epochs": 4}}), a=30, b=50, c=5)
    assert by_epochs == pytest.approx(shares(group(temperature=1, a=2, b=1, c=4), a=30, b=50, c=5))


def test_a_frozen_draw_stays_frozen() -> None:
    pools = make_pools({"a": [5] * 8, "b": [9] * 8})
    assert drawn(pools, group(a=0.4, b=0.6), tokens=60).samples.tolist() == GOLDEN
    assert isinstance(ask(pools, group(a=0.4, b=0.6), Budget(tokens=60), "tokens", "s"), Asked)


GOLDEN = [4, 11, 7, 12, 1, 10, 5, 15, 2]
