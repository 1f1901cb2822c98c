"""Who chooses the sets of steps."""

import math

import pytest
from hypothesis import given as each
from hypothesis import settings
from hypothesis import strategies as st

from mindvl_train.config.schema import ControlConfig
from mindvl_train.loop.control import choice
from mindvl_train.loop.controllers import given, odm

ODM = ControlConfig(name="odm", warmup=1, smoothing=0.5, floor=0.1)
FIRST = {"shares": [0.5, 0.5], "step": 0}


def test_odm_by_hand() -> None:
    # The first step is the warm-up's; then R = (0, ½·0 + ½·3/½) = (0, 3), t = 1 and ε = min(½, √(ln 2 / 2)) = ½: even.
    one = odm(FIRST, [0, 1], [9.0, 3.0], ODM)
    assert (one["rewards"], one["explored"], one["step"]) == ([0.0, 3.0], 0.5, 2)
    assert one["shares"] == [0.5, 0.5]
    # t = 3: ε = √(ln 2 / 6) = 0.3399; R = (½·2/½, 3/2 + ½·1/½) = (2, 2.5), powers by the ε before, ½.
    two = odm(one, [0, 1], [2.0, 1.0], ODM)
    explored = math.sqrt(math.log(2) / 6)
    assert two["rewards"] == [2.0, 2.5]
    assert two["explored"] == pytest.approx(explored)
    high = 1 / (1 + math.exp(-0.25))
    assert two["shares"] == pytest.approx([(1 - 2 * explored) * s + explored for s in (1 - high, high)])


def test_odm_keeps_the_given_shares_while_it_warms_up_and_no_share_falls_below_the_floor() -> None:
    state = {"shares": [0.9, 0.1], "step": 0}
    warm = ODM.model_copy(update={"warmup": 5})
    assert odm(state, [0, 1, 0], [1.0, 1.0, 1.0], warm)["shares"] == [0.9, 0.1]
    late = odm({"shares": [0.5, 0.5], "step": 10_000, "rewards": [0.0, 900.0], "explored": 0.5}, [1], [None], ODM)
    assert late["shares"] == pytest.approx([0.1, 0.9])
    assert late["rewards"] == [0.0, 900.0]
    # A floor above what all can have is what all have.
    assert odm(FIRST, [0, 1], [1.0, 9.0], ODM.model_copy(update={"floor": 0.9}))["shares"] == [0.5, 0.5]


def test_given_shares_stay() -> None:
    assert given(FIRST, [0, 0, 1], [1.0, 2.0, 3.0], ControlConfig(name="given")) == {**FIRST, "step": 3}


@settings(max_examples=30, deadline=None)
@each(st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_choices_follow_the_shares_and_the_ids_and_the_step_alone(shares: list[float]) -> None:
    ids = [str(number) for number in range(len(shares))]
    drawn = [choice(shares, ids, step) for step in range(400)]
    assert drawn == [choice(shares, ids, step) for step in range(400)]
    for number, share in enumerate(shares):
        assert drawn.count(number) / 400 == pytest.approx(share / sum(shares), abs=0.13)
    if len(shares) > 1:
        assert drawn != [choice(shares, ["other", *ids[1:]], step) for step in range(400)] or max(shares) > 0.9 * sum(
            shares
        )
