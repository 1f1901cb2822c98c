"""Steps of a stage, and what a stage is said to have moved."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.stream import next_step
from mindvl_data.stream.course import Course, Stretch
from mindvl_data.stream.weights import arrange
from mindvl_train.loop.optim import freeze_all_but
from mindvl_train.loop.stages import FrozenMovedError, movement, steps_for
from mindvl_train.weights.fingerprints import fingerprints
from tests.mindvl_train.synthetic import tiny_model


@given(packs=st.integers(1, 60), per_epoch=st.integers(1, 20), global_batch=st.integers(1, 9))
def test_the_steps_of_a_stage_are_those_that_the_stream_takes(packs: int, per_epoch: int, global_batch: int) -> None:
    course = Course("", (per_epoch,), (Stretch((0,), arrange([1]), 0, None, (0,)),))
    cursor, steps = 0, 0
    while cursor < packs:
        cursor, steps = next_step(course, cursor, global_batch, "pad").after, steps + 1
    assert steps_for(packs, per_epoch, global_batch) == steps


def test_what_moved_is_told_by_its_bytes() -> None:
    model = tiny_model()
    freeze_all_but(model, ["projector.*"])
    before = fingerprints(model)
    with torch.no_grad():
        model.projector.fc1.bias[0] += 1
    moved = movement(before, model)
    assert moved.moved == {"projector": 1}
    assert moved.unchanged["projector"] == 4
    assert sum(moved.unchanged.values()) == len(before) - 1


def test_a_frozen_parameter_that_moved_is_an_error() -> None:
    model = tiny_model()
    freeze_all_but(model, ["projector.*"])
    before = fingerprints(model)
    with torch.no_grad():
        model.decoder.norm.weight.neg_()
    with pytest.raises(FrozenMovedError, match=r"decoder.norm.weight is frozen"):
        movement(before, model)
