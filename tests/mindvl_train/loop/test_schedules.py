"""Learning-rate factors at the places that define a schedule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_train import plugins
from mindvl_train.config.schema import ScheduleConfig
from mindvl_train.loop.schedules import Schedule, constant, cosine, wsd


def test_constant_stays_at_the_peak_after_the_warmup() -> None:
    config = ScheduleConfig(warmup=0.5)
    assert [constant(step, 8, config) for step in range(8)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1])


def test_cosine_falls_to_the_floor() -> None:
    config = ScheduleConfig(floor=0.1)
    assert cosine(0, 10, config) == 1
    assert cosine(5, 10, config) == pytest.approx(0.55)
    assert cosine(10, 10, config) == pytest.approx(0.1)


def test_wsd_is_stable_until_its_tail() -> None:
    config = ScheduleConfig(decay=0.4, floor=0.0)
    assert [wsd(step, 10, config) for step in range(10)] == pytest.approx([1] * 7 + [0.75, 0.5, 0.25])


@given(
    name=st.sampled_from(sorted(plugins.available(plugins.SCHEDULES))),
    total=st.integers(1, 50),
    warmup=st.floats(0, 1),
    decay=st.floats(0, 1),
    floor=st.floats(0, 1),
)
def test_every_registered_schedule_stays_between_zero_and_the_peak(
    name: str, total: int, warmup: float, decay: float, floor: float
) -> None:
    schedule: Schedule = plugins.load(plugins.SCHEDULES, name)
    config = ScheduleConfig(name=name, warmup=warmup, decay=decay, floor=floor)
    factors = [schedule(step, total, config) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors) or floor == 0
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
