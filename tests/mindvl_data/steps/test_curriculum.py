"""Draws in the order of a column."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.steps.curriculum import rising

NAN = float("nan")


def test_by_hand() -> None:
    assert rising(np.array([3.0, 1, 2, 1])).tolist() == [1, 3, 2, 0]
    assert rising(np.array([3.0, 1, 2, 1]), descending=True).tolist() == [0, 2, 1, 3]
    # The one without a value stands in the middle of all.
    assert rising(np.array([NAN, 4.0, 3, 2, 1])).tolist() == [4, 3, 0, 2, 1]
    # Two groups, each rising; the small one's two stand at a quarter and three quarters.
    groups = np.array([0, 0, 0, 0, 1, 1])
    order = rising(np.array([4.0, 3, 2, 1, 90, 80]), groups).tolist()
    assert [i for i in order if i < 4] == [3, 2, 1, 0]
    assert [i for i in order if i > 3] == [5, 4]
    assert {order.index(5) // 3, order.index(4) // 3} == {0, 1}


@given(st.lists(st.floats(-5, 5) | st.just(NAN), max_size=40), st.booleans())
def test_every_draw_once_and_those_with_a_value_in_order(values: list[float], descending: bool) -> None:
    order = rising(np.array(values, np.float64), None, descending)
    assert sorted(order.tolist()) == list(range(len(values)))
    known = [values[i] for i in order if not np.isnan(values[i])]
    assert known == sorted(known, reverse=descending)
