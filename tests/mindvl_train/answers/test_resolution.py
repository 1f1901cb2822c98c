"""The search over bounds: what each gives, which is best, and where it is written."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mindvl_data.shards import Pack
from mindvl_train.answers import resolution
from mindvl_train.answers.evaluation import Score
from mindvl_train.answers.opened import Opened
from mindvl_train.answers.resolution import Point, ResolutionError, best, edit_distance, resolutions, search
from mindvl_train.models.spec import ModelInputs
from tests.mindvl_train.synthetic import LAYOUT, SPECIAL_IDS, image_sample, pack_of, text_sample, tiny_model


@pytest.fixture
def opened() -> Opened:
    return Opened(tiny_model(), LAYOUT, torch.device("cpu"), SPECIAL_IDS, {}, None, ModelInputs(56, 14, 2))


def packs() -> Iterator[Pack]:
    rng = np.random.default_rng(5)
    yield pack_of([image_sample(rng, (8, 6), 4), text_sample(rng, 6)], 40)
    yield pack_of([image_sample(rng, (4, 4), 5)])


def point(least: int, most: int, tokens: float, right: int, similarity: float | None = None) -> Point:
    return Point(least, most, tokens, Score(10, 10, 1.0, 10, right), similarity)


def test_every_pair_is_scored_at_its_own_number_of_placeholders(opened: Opened) -> None:
    pairs = resolutions(opened, [784, 3136], [1568, 100_000])
    assert [(pair.min_pixels, pair.max_pixels) for pair in pairs] == [(784, 1568), (784, 100_000), (3136, 100_000)]
    seen: list[Point] = []
    points = search(opened, packs, pairs, generated=3, done=seen.append)
    assert seen == points
    # Pictures of 8 × 6 and 4 × 4 patches: 12 and 4 tokens as they are, over the three samples.
    assert points[1].vision_tokens == pytest.approx(16 / 3)
    assert points[0].vision_tokens < points[1].vision_tokens
    for each in points:
        assert each.score.samples == 3
        assert each.similarity is not None
        assert 0 <= each.similarity <= 1


def test_bounds_that_leave_no_pair_are_refused(opened: Opened) -> None:
    with pytest.raises(ResolutionError, match="784"):
        resolutions(opened, [5000, 100], [3000])


def test_the_best_has_the_most_right_answers_and_of_equals_the_fewest_tokens() -> None:
    points = [point(784, 9000, 10, 5), point(784, 50_000, 30, 7), point(3136, 50_000, 31, 7), point(1568, 9000, 12, 6)]
    assert best(points) is points[1]
    assert best([point(1, 2, 3, 9, 0.2), point(1, 3, 4, 1, 0.8)]).similarity == 0.8


@pytest.mark.parametrize("size", [False, True])
def test_the_best_bounds_are_written_into_the_processor(tmp_path: Path, size: bool) -> None:
    config = {"patch_size": 14, "min_pixels": 1, "max_pixels": 2} | ({"size": {"shortest_edge": 1}} if size else {})
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    written = resolution.write_bounds(tmp_path, point(784, 9000, 10, 5))
    found = json.loads(written.read_text())
    assert (found["patch_size"], found["min_pixels"], found["max_pixels"]) == (14, 784, 9000)
    assert found.get("size") == ({"shortest_edge": 784, "longest_edge": 9000} if size else None)
    with pytest.raises(ResolutionError, match="export with --tokenizer"):
        resolution.write_bounds(tmp_path / "none", point(1, 2, 3, 4))


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    resolution.plot(
        [point(784, 9000, 10, 5), point(784, 50_000, 30, 7), point(3136, 50_000, 31, 7)], tmp_path / "a.png"
    )
    with Image.open(tmp_path / "a.png") as image:
        colours = image.convert("RGB").getcolors(1_000_000)
    assert colours is not None
    assert len(colours) > 10


@given(st.lists(st.integers(0, 3), max_size=7), st.lists(st.integers(0, 3), max_size=7))
def test_the_edit_distance_is_levenshteins(one: list[int], other: list[int]) -> None:
    def plain(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return plain(a[1:], b[1:])
        return 1 + min(plain(a[1:], b), plain(a, b[1:]), plain(a[1:], b[1:]))

    assert edit_distance(one, other) == plain(tuple(one), tuple(other))
