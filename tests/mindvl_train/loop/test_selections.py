"""What InfoBatch and SeTa keep of an epoch."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_train.config.schema import SelectionConfig
from mindvl_train.loop.selections import groups_of, infobatch, seta

NAN = float("nan")


def words(*order: int) -> np.ndarray:
    return np.array(order, np.uint64)


def test_infobatch_by_hand() -> None:
    # The mean is 4; of the three below a third leaves, the others weigh three halves.
    losses, config = np.array([1.0, 2.0, 3.0, 10.0]), SelectionConfig(name="infobatch", prune=1 / 3, full=0.0)
    kept, weights = infobatch(losses, words(5, 9, 1, 0), 0, 4, config)
    assert kept.tolist() == [True, False, True, True]
    assert weights[kept].tolist() == [1.5, 1.5, 1]


def test_what_infobatch_expects_is_the_whole_gradient() -> None:
    losses, config = np.array([1.0, 2.0, 3.0, 10.0, 2.5]), SelectionConfig(name="infobatch", prune=0.4, full=0.0)
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    sums = []
    for order in permutations(range(4)):
        drawn = np.zeros(5, np.uint64)
        drawn[[0, 1, 2, 4]] = order
        kept, weights = infobatch(losses, drawn, 0, 1, config)
        assert kept.sum() == 3
        sums.append((weights[kept, None] * gradients[kept]).sum(axis=0))
    assert np.allclose(np.mean(sums, axis=0), gradients.sum(axis=0))


def test_infobatch_keeps_everything_at_first_and_in_the_last_epochs() -> None:
    config = SelectionConfig(name="infobatch", prune=0.5)
    for losses, epoch in (([NAN] * 4, 0), ([1.0, 1, 1, 9], 7)):
        kept, weights = infobatch(np.array(losses), words(1, 2, 3, 4), epoch, 8, config)
        assert (kept.all(), weights.tolist()) == (True, [1.0] * 4)
    # One that no step has seen counts 3: more than the mean here.
    kept, _ = infobatch(np.array([1.0, 1, NAN, 1]), words(1, 2, 3, 4), 1, 8, config)
    assert kept.tolist() == [True, False, True, False]


@pytest.mark.parametrize(
    ("epoch", "groups"),
    # Two of four groups: from the second on, from the third, from the first; the last epoch of eight has all.
    [(0, [0, 1, 2, 3]), (1, [1, 2]), (2, [2, 3]), (3, [0, 1]), (4, [1, 2]), (6, [0, 1]), (7, [0, 1, 2, 3])],
)
def test_setas_window_slides_from_easy_to_hard(epoch: int, groups: list[int]) -> None:
    losses = np.array([3.0, 0, 1, 2, 0.1, 1.1, 2.1, 3.1])
    config = SelectionConfig(name="seta", groups=4, window=0.5)
    kept, weights = seta(losses, np.arange(8, dtype=np.uint64), epoch, 8, config)
    assert sorted(set(losses[kept].astype(int).tolist())) == groups
    assert (kept.sum(), weights.tolist()) == (2 * len(groups), [1.0] * 8)


def test_seta_draws_its_share_first() -> None:
    losses = np.arange(10.0)
    config = SelectionConfig(name="seta", prune=0.3, groups=2, window=0.5, full=0.5)
    drawn = words(9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    # Of 3 to 9 the harder of two groups.
    kept, _ = seta(losses, drawn, 1, 9, config)
    assert np.flatnonzero(kept).tolist() == [6, 7, 8, 9]
    # Later epochs have the seven; never less than a tenth.
    assert np.flatnonzero(seta(losses, drawn, 8, 9, config)[0]).tolist() == [3, 4, 5, 6, 7, 8, 9]
    assert seta(losses, drawn, 8, 9, config.model_copy(update={"prune": 1.0}))[0].sum() == 1


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 20, width=16), max_size=40), st.integers(1, 12))
def test_groups_are_runs_none_of_them_empty(values: list[float], groups: int) -> None:
    borders = groups_of(np.sort(np.array(values, np.float64)), groups)
    assert (borders[0], borders[-1]) == (0, len(values))
    assert (np.diff(borders) > 0).all()
    assert len(borders) - 1 <= groups


def test_equal_losses_make_groups_of_equal_size_and_others_settle() -> None:
    assert groups_of(np.full(6, 2.0), 3).tolist() == [0, 2, 4, 6]
    assert groups_of(np.array([0, 0.1, 0.2, 5, 9, 9.1]), 3).tolist() == [0, 3, 4, 6]
    assert groups_of(np.zeros(0), 3).tolist() == [0]
