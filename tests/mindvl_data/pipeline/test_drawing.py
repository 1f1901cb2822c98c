"""What a set draws and packs: budgets in packs, the order of windows, and the sample that no pack can hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mindvl_data.errors import BuildError
from mindvl_data.packing import Packs
from mindvl_data.packing.planning import MAX_AGE
from mindvl_data.pipeline.drawing import Drawn, drawn
from mindvl_data.pipeline.spec import Spec
from mindvl_data.recipe import Budget, Curriculum, Group
from mindvl_data.steps.fit import Fitted, Weights
from mindvl_data.tables.corpus import Corpus
from mindvl_data.vision import Resolution

NAMES = ("a", "b")
NONE = np.zeros(0, np.int64)
SEQ_LEN = 512


def corpus(samples: int) -> Corpus:
    """Samples of two sources in turn, without images."""
    rng = np.random.default_rng(1)
    ids = rng.integers(0, 256, (samples, 16), dtype=np.uint8)
    source = (np.arange(samples) % 2).astype(np.int16)
    empty = np.zeros(0, np.int32)
    counts = np.ones(samples, np.int32)
    starts = np.array([0, samples])
    return Corpus(
        NAMES,
        source,
        starts,
        ids,
        counts,
        counts,
        np.zeros(samples + 1, np.int32),
        empty,
        empty,
        empty,
        NONE.astype(np.uint64),
        NONE,
    )


def fitted(samples: int, unfit: Sequence[int] = ()) -> Fitted:
    rng = np.random.default_rng(2)
    tokens, zeros = rng.integers(10, 300, samples).astype(np.int32), np.zeros(samples, np.int32)
    patches = rng.integers(0, 50, samples).astype(np.int32)
    weights = Weights(tokens, zeros.astype(np.int16), tokens, tokens // 2, patches, 2)
    fits = np.ones(samples, bool)
    fits[list(unfit)] = False
    return Fitted(weights, fits, NONE, NONE, NONE)


def spec(mixture: dict[str, Any] | None, budget: dict[str, Any] | None = None, **rest: Any) -> Spec:
    lengths = {"seq_len": SEQ_LEN, "fit_len": SEQ_LEN} | {name: rest.pop(name) for name in ("seq_len",) if name in rest}
    return Spec(
        stage="s",
        overlong="drop",
        resolution=Resolution(14, 2, 784, 50_176),
        mixture=None if mixture is None else Group.model_validate(mixture),
        by="tokens",
        budget=None if budget is None else Budget.model_validate(budget),
        max_epochs=4,
        **lengths,
        **rest,
    )


def make(samples: int, asked: Spec, unfit: Sequence[int] = (), **rest: Any) -> Drawn:
    found = drawn(corpus(samples), fitted(samples, unfit), asked, NAMES, 0, **rest)
    assert np.array_equal(np.sort(found.packs.index), np.arange(len(found.draw)))
    return found


def windows(packs: Packs, borders: np.ndarray) -> np.ndarray:
    """The window that each place of the packs' index lies in."""
    return np.repeat(np.repeat(np.arange(len(borders) - 1), np.diff(borders)), np.diff(packs.offsets))


@pytest.mark.parametrize("packs", [1, 2, 17, 60])
def test_a_budget_in_packs_makes_so_many_of_the_largest_draw_looked_at(packs: int) -> None:
    found = make(300, spec({"a": 0.7, "b": 0.3}, {"packs": packs}))
    tokens = fitted(300).weights.tokens[found.draw.samples]
    assert len(found.packs) == packs
    assert tokens.sum() > packs * SEQ_LEN - 2 * 300


def test_a_budget_in_packs_of_the_shortest_length_is_one_draw_for_a_longer_one() -> None:
    mixture, budget = {"a": 0.5, "b": 0.5}, {"packs": 20}
    short, long = make(300, spec(mixture, budget)), make(300, spec(mixture, budget, seq_len=2 * SEQ_LEN))
    assert np.array_equal(short.draw.samples, long.draw.samples)
    assert len(long.packs) == len(short.packs) // 2


def test_the_held_out_set_has_every_sample_once_in_an_order_of_its_own() -> None:
    found = make(200, spec(None), unfit=[3, 4])
    assert np.array_equal(np.sort(found.draw.samples), np.setdiff1d(np.arange(200), [3, 4]))
    assert not np.array_equal(found.draw.samples, np.sort(found.draw.samples))
    assert not found.draw.repeats.any()


def test_what_does_not_fit_is_in_no_pool_and_nothing_left_is_an_error() -> None:
    found = make(100, spec({"a": 0.5, "b": 0.5}, {"epochs": 1}), unfit=range(0, 40))
    assert found.draw.samples.min() >= 40
    with pytest.raises(BuildError, match=r"s-512: nothing is left to pack; see the funnel of `plan`"):
        make(10, spec(None), unfit=range(10))


def test_a_sample_with_more_patches_than_a_pack_holds_is_named() -> None:
    with pytest.raises(BuildError, match=r"stages\.s\.max_patches: the sample [0-9a-f]{32} has \d+ patches, a pack"):
        make(50, spec({"a": 0.5, "b": 0.5}, {"epochs": 1}, max_patches=20))


def test_a_window_takes_each_pass_over_a_source_as_it_lies() -> None:
    found = make(400, spec({"a": 0.5, "b": 0.5}, {"epochs": 1}, window=50))
    assert found.borders is not None
    of = windows(found.packs, found.borders)
    taken = found.draw.samples[found.packs.index]
    for source in (0, 1):
        mine = taken % 2 == source
        # Where the source's draws stand in the draw: the first of them holds its first sample, and so on.
        stands = np.flatnonzero(found.draw.samples % 2 == source)
        first = stands[np.searchsorted(np.sort(taken[mine]), taken[mine])] // 50
        assert (first <= of[mine]).all()
        assert (of[mine] <= first + MAX_AGE).all()


@pytest.mark.parametrize("descending", [False, True])
def test_a_curriculum_raises_its_column_from_window_to_window(descending: bool) -> None:
    column = np.random.default_rng(3).random(400)
    rule = Curriculum.model_validate({"by": "x", "windows": 4, "descending": descending})
    found = make(400, spec({"a": 0.5, "b": 0.5}, {"epochs": 1}, curriculum=rule), column=column)
    assert found.borders is not None
    assert len(found.borders) == 5
    values, of = column[found.draw.samples[found.packs.index]], windows(found.packs, found.borders)
    means = [values[of == window].mean() for window in range(4)]
    assert means == sorted(means, reverse=descending)
