"""The families' rules are those of transformers' video processors."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mindvl_data.vision import BadImage
from mindvl_data.vision.resize import QWEN2_VL, QWEN3_VL, Resolution
from mindvl_data.vision.video.rule import QWEN2_VIDEO, QWEN3_VIDEO, VideoRule, pair_times, seconds_per_grid
from tests.mindvl_data.vision.video.published import answers

RULES = {rule.family: rule for rule in (QWEN2_VIDEO, QWEN3_VIDEO)}
FACTORS = {"qwen2-vl": 28, "qwen3-vl": 32}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def test_frames_and_sizes_are_the_published_ones() -> None:
    draw = random.Random(0)
    questions = []
    for number in range(600):
        family = draw.choice([*RULES])
        frames = draw.choice([2, 3, 5, draw.randint(2, 50), draw.randint(2, 20_000)])
        rate = draw.choice([1, 10, 23.976, 24, 25, 29.97, 60, draw.uniform(0.5, 120)])
        how = (
            {"fps": draw.choice([0.5, 1, 2, 3, 30])}
            if number % 3
            else {"num_frames": draw.randint(2, max(2, min(frames - 1, 768)))}
        )
        questions.append({"what": "chosen", "family": family, "frames": frames, "rate": rate, **how})
    for _ in range(400):
        family, frames = draw.choice([*RULES]), draw.choice([2, 3, draw.randint(2, 768)])
        size = {"width": draw.randint(1, 2000), "height": draw.randint(1, 2000)}
        questions.append({"what": "resized", "family": family, "frames": frames, **size, "capped": draw.random() < 0.5})
    for question, answer in zip(questions, answers(questions), strict=True):
        if question.pop("what") == "chosen":
            assert_same_frames(answer["indices"], **question)
        else:
            assert resized(**question) == answer["size"], question


def assert_same_frames(expected: list[int], family: str, frames: int, rate: float, **how: float) -> None:
    rule = replace(RULES[family], frames=how.get("num_frames"), fps=how.get("fps", 2.0))  # type: ignore[arg-type]
    chosen = rule.chosen(frames, rate)
    # Rounding may bring the published rule one step further than the clip has frames.
    published = np.array([index for index in expected if index < frames])
    assert len(chosen) == len(published)
    # torch steps in float32, rounded as the processor likes: where a step ends in a whole number, either may be.
    step = frames / len(expected) * np.arange(len(chosen))
    near = np.abs(step - np.rint(step)) < 4e-3
    assert (chosen == published)[~near if family == "qwen2-vl" else ...].all()
    assert np.abs(chosen - published).max() <= 1


def resized(family: str, frames: int, width: int, height: int, capped: bool) -> list[int] | None:
    rule = RULES[family]
    rule = replace(rule, frame_pixels=768 * 32 * 32) if capped else replace(rule, total_pixels=None)
    try:
        return list(rule.resized(frames, width, height, FACTORS[family]))
    except BadImage:
        return None


@each_rule
@given(
    frames=st.integers(1, 5000),
    rate=st.floats(0.5, 120),
    fps=st.sampled_from([0.5, 1.0, 2.0, 30.0]),
    number=st.one_of(st.none(), st.integers(1, 900)),
)
def test_chosen_frames_are_frames_in_order(
    rule: VideoRule, frames: int, rate: float, fps: float, number: int | None
) -> None:
    chosen = replace(rule, fps=fps, frames=number).chosen(frames, rate)
    assert len(chosen) >= 1
    assert chosen[0] >= 0
    assert chosen[-1] < frames
    assert (np.diff(chosen) > 0).all()


@each_rule
def test_a_clip_of_one_frame_is_looked_at(rule: VideoRule) -> None:
    assert rule.chosen(1, 25.0).tolist() == [0]
    assert min(rule.resized(1, 640, 480, 28)) > 0


@each_rule
def test_too_narrow_a_clip_is_refused_by_name(rule: VideoRule) -> None:
    with pytest.raises(BadImage, match="aspect_ratio"):
        rule.resized(4, 10_000, 40, 28)


def test_times_of_pairs_are_the_published_ones() -> None:
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

    indices = [0, 12, 24, 37, 49]
    expected = Qwen3VLProcessor._calculate_timestamps(None, np.array(indices), 24.0)
    assert pair_times([index / 24.0 for index in indices]) == expected


def test_seconds_per_grid_are_those_of_the_frames_looked_at() -> None:
    assert seconds_per_grid(chosen=8, frames=120, rate=30.0) == pytest.approx(1.0)


@pytest.mark.parametrize("rule", [QWEN2_VL, QWEN3_VL], ids=["qwen2-vl", "qwen3-vl"])
def test_a_manifest_has_the_rule_back(rule: Resolution) -> None:
    assert rule.video is not None
    assert Resolution.of(rule.described() | {"video": rule.video.described()}) == rule
    assert Resolution.of(rule.described()) == replace(rule, video=None)
