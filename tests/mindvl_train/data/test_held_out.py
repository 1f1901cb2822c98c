"""Held-out packs cut apart, and seen at another resolution."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mindvl_data import vision
from mindvl_data.shards import Pack
from mindvl_train.data.held_out import HeldOutError, at_resolution, samples
from tests.mindvl_train.synthetic import SPECIAL_IDS, Sample, image_sample, pack_of, text_sample

AS_IT_IS = vision.Resolution(14, 2, 784, 1_003_520)


@st.composite
def sequences(draw: st.DrawFn) -> list[Sample]:
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    images = [(4, 6), (2, 2), (8, 4)]
    made = st.one_of(
        st.integers(2, 9).map(lambda length: text_sample(rng, length)),
        st.sampled_from(images).map(lambda grid: image_sample(rng, grid, 4)),
    )
    return draw(st.lists(made, min_size=1, max_size=4))


@settings(max_examples=30, deadline=None)
@given(sequences(), st.integers(0, 5))
def test_cut_samples_are_those_that_were_packed(packed: list[Sample], padding: int) -> None:
    pack = pack_of(packed, sum(len(sample.tokens) for sample in packed) + padding)
    cut = list(samples(pack))
    assert len(cut) == len(packed)
    for one, sample, identity in zip(cut, packed, pack.sample_ids, strict=True):
        np.testing.assert_array_equal(one.tokens, sample.tokens)
        np.testing.assert_array_equal(one.loss_mask, sample.loss_mask)
        assert one.images == sample.images
        assert one.sample_ids == (identity,)


@settings(max_examples=30, deadline=None)
@given(sequences(), st.integers(0, 5), st.integers(1, 30))
def test_another_resolution_changes_the_placeholders_and_nothing_else(
    packed: list[Sample], padding: int, tokens: int
) -> None:
    pack = pack_of(packed, sum(len(sample.tokens) for sample in packed) + padding)
    other = at_resolution(pack, vision.Resolution(14, 2, 784, tokens * 784))
    assert _text(other) == _text(pack)
    assert other.tokens[other.loss_mask].tolist() == pack.tokens[pack.loss_mask].tolist()
    for image, before in zip(other.images, pack.images, strict=True):
        length = vision.num_vision_tokens(*image.grid, 2)
        assert length <= max(tokens, 1)
        run = other.tokens[image.start - 1 : image.start + length + 1].tolist()
        assert run == [SPECIAL_IDS["vision_start"], *[SPECIAL_IDS["image_pad"]] * length, SPECIAL_IDS["vision_end"]]
        assert image.data == before.data
    # Cut apart before or after, the samples are the same.
    for one, also in zip(samples(other), samples(pack), strict=True):
        alone = at_resolution(also, vision.Resolution(14, 2, 784, tokens * 784))
        np.testing.assert_array_equal(one.tokens, alone.tokens)
        assert one.images == alone.images


def test_the_resolution_of_the_set_gives_the_set_back() -> None:
    rng = np.random.default_rng(0)
    pack = pack_of([image_sample(rng, (4, 6), 5), text_sample(rng, 7), image_sample(rng, (2, 2), 3)], 40)
    same = at_resolution(pack, AS_IT_IS)
    np.testing.assert_array_equal(same.tokens, pack.tokens)
    np.testing.assert_array_equal(same.cu_seqlens, pack.cu_seqlens)
    assert same.images == pack.images
    assert same.num_tokens == pack.num_tokens


def test_images_whose_bytes_are_not_there_are_said() -> None:
    pack = pack_of([image_sample(np.random.default_rng(0), (2, 2), 3)])
    bare = type(pack)(**{**vars(pack), "images": tuple(type(i)(i.start, i.grid) for i in pack.images)})
    with pytest.raises(HeldOutError, match="images were not read"):
        at_resolution(bare, AS_IT_IS)


def _text(pack: Pack) -> list[list[int]]:
    """Of every segment, without placeholders."""
    bounds = pack.cu_seqlens.tolist()
    segments = [pack.tokens[start:stop] for start, stop in itertools.pairwise(bounds)]
    return [segment[segment != SPECIAL_IDS["image_pad"]].tolist() for segment in segments]
