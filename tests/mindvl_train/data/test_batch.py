"""What a batch is made of, and that it is made loudly or right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mindvl_data import vision
from mindvl_train.data.batch import BatchError, collate
from tests.mindvl_train.synthetic import (
    LAYOUT,
    VIDEO_PAD,
    Sample,
    image_sample,
    mixed_packs,
    pack_of,
    spans_sample,
    text_sample,
    video_sample,
)

RNG = np.random.default_rng(0)


def test_positions_restart_in_every_segment_and_in_padding() -> None:
    batch = collate([pack_of([text_sample(RNG, 3), text_sample(RNG, 2)], 7), pack_of([text_sample(RNG, 2)])], LAYOUT)
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1]
    assert batch.segments.cu_seqlens == (0, 3, 5, 7, 9)


def test_a_target_is_predicted_by_the_token_before_it() -> None:
    pack = pack_of([text_sample(RNG, 3), text_sample(RNG, 2)])
    batch = collate([pack], LAYOUT)
    assert batch.predictors.tolist() == [0, 1, 3]
    assert batch.targets.tolist() == pack.tokens[[1, 2, 4]].tolist()


def test_nothing_predicts_the_first_token_of_a_segment_whatever_the_mask_says() -> None:
    pack = pack_of([text_sample(RNG, 3), text_sample(RNG, 1), text_sample(RNG, 2)])
    batch = collate([replace(pack, loss_mask=np.ones(6, bool))], LAYOUT)
    assert batch.predictors.tolist() == [0, 1, 4]


def test_patches_and_their_places_are_in_merge_block_order() -> None:
    sample = image_sample(RNG, (4, 6), 2)
    batch = collate([pack_of([sample])], LAYOUT)
    assert torch.equal(batch.patches, torch.from_numpy(vision.decode(sample.images[0].data or b"", 4, 6)))
    assert batch.patch_positions[:6, :2].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3]]
    assert batch.patch_positions[:, 2:].unique(dim=0).tolist() == [[4, 6]]
    assert batch.patch_positions[-1].tolist() == [3, 5, 4, 6]


def test_every_image_is_a_segment_and_owns_its_placeholders() -> None:
    packs = [
        pack_of([text_sample(RNG, 3), image_sample(RNG, (2, 4), 2)]),
        pack_of([image_sample(RNG, (4, 4), 1)]),
    ]
    batch = collate(packs, LAYOUT)
    assert batch.image_segments.cu_seqlens == (0, 8, 24)
    assert batch.placeholders.tolist() == [4, 5, 10, 11, 12, 13]
    assert batch.ids[batch.placeholders].unique().tolist() == [LAYOUT.image_pad]
    assert batch.num_masked_features == 0


def test_a_batch_without_images_has_one_masked_grid_of_the_smallest_size() -> None:
    batch = collate([pack_of([text_sample(RNG, 4)])], LAYOUT)
    assert batch.patches.shape == (4, 1176)
    assert batch.image_segments.cu_seqlens == (0, 4)
    assert (len(batch.placeholders), batch.num_masked_features, batch.num_images) == (0, 1, 0)


WITH_VIDEO = replace(LAYOUT, video_pad=VIDEO_PAD)


def test_a_video_is_a_frame_segment_a_group_and_owns_its_placeholders() -> None:
    batch = collate([pack_of([video_sample(RNG, (3, 2, 4), 2), image_sample(RNG, (4, 4), 1)])], WITH_VIDEO)
    assert batch.image_segments.cu_seqlens == (0, 8, 16, 24, 40)
    assert batch.placeholders.tolist() == [*range(1, 7), *range(11, 15)]
    assert batch.ids[batch.placeholders].tolist() == [VIDEO_PAD] * 6 + [LAYOUT.image_pad] * 4
    assert batch.patch_positions[:24].tolist() == batch.patch_positions[:8].tolist() * 3
    assert (batch.num_images, batch.num_patches, batch.vision_cost) == (2, 40, 3 * 64 + 256)


def test_the_patches_of_a_video_hold_two_frames_each() -> None:
    sample = video_sample(RNG, (2, 2, 2), 2)
    (clip,) = sample.images
    batch = collate([pack_of([sample])], WITH_VIDEO)
    groups = batch.patches.view(2, 4, 3, 2, 14 * 14)
    for number, frame in enumerate(clip.frames):
        picture = (clip.data or b"")[frame.offset :][: frame.size]
        alone = torch.from_numpy(vision.decode(picture, 2, 2)).view(4, 3, 2, 14 * 14)
        assert torch.equal(groups[number // 2, :, :, number % 2], alone[:, :, 0])


def test_levels_and_black_of_images_among_videos_become_the_batch() -> None:
    packs = [pack_of([image_sample(RNG, (4, 4), 3)]), pack_of([spans_sample(RNG, (2, 2, 4), 3), text_sample(RNG, 4)])]
    whole, levels, black = (collate(packs, WITH_VIDEO, pixels) for pixels in ("patches", "levels", "black"))
    assert levels.patches.nbytes * 4 == whole.patches.nbytes
    assert black.patches.shape == levels.patches.shape
    torch.testing.assert_close(levels.to(torch.device("cpu")).patches, whole.patches, atol=1e-6, rtol=0)


def test_a_video_takes_its_seconds_in_time_and_an_image_none() -> None:
    packs = [pack_of([image_sample(RNG, (2, 4), 1)]), pack_of([video_sample(RNG, (3, 2, 2), 2, seconds=0.75)])]
    batch = collate(packs, replace(WITH_VIDEO, position_axes=3, tokens_per_second=2))
    assert batch.positions[0].tolist() == [0, 1, 1, 3, 4, 0, 1, 2, 4, 2, 3, 4]
    assert batch.positions[1].tolist() == [0, 1, 1, 3, 4, 0, 1, 1, 1, 2, 3, 4]


def test_videos_in_a_set_that_knows_no_token_of_theirs_are_an_error() -> None:
    pack = pack_of([video_sample(RNG, (2, 2, 2), 2)], index=4)
    with pytest.raises(BatchError, match=r"pack 4: its 1 images cover 2 tokens, but its 0 image placeholders"):
        collate([pack], LAYOUT)


@pytest.mark.parametrize("sample", [video_sample(RNG, (2, 2, 2), 2), spans_sample(RNG, (2, 2, 2), 2)])
def test_a_video_that_cannot_be_decoded_names_its_pack(sample: Sample) -> None:
    good, bad = image_sample(RNG, (2, 2), 1), pack_of([sample]).images
    broken = tuple(replace(image, data=b"no clip") for image in bad)
    pack = pack_of([good, replace(sample, images=broken)], index=3)
    with pytest.raises(BatchError, match=r"pack 3: the video at token \d+ cannot be decoded .*mindvl_data verify"):
        collate([pack], WITH_VIDEO)


def test_a_pack_that_fills_the_last_batch_has_no_targets() -> None:
    batch = collate([mixed_packs(1, 24)[0].without_loss()], LAYOUT)
    assert (len(batch.targets), batch.total_weight) == (0, 0.0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("token", [1, 1, 1, 1]), ("sample", [1 / 3] * 3 + [1]), ("square_root", [3**-0.5] * 3 + [1])],
)
def test_loss_weights(rule: str, expected: list[float]) -> None:
    pack = pack_of([text_sample(RNG, 4), text_sample(RNG, 2)])
    batch = collate([pack], replace(LAYOUT, loss_weight=rule))
    torch.testing.assert_close(batch.weights, torch.tensor(expected, dtype=torch.float32))
    assert batch.total_weight == pytest.approx(sum(expected))


@pytest.mark.parametrize("rule", ["token", "sample"])
def test_targets_weigh_what_their_source_does(rule: str) -> None:
    """Two packs, the first padded: a factor goes to the segments of its source, wherever they lie."""
    first = replace(pack_of([text_sample(RNG, 4), text_sample(RNG, 3)], 9), sources=("a", "b"))
    second = replace(pack_of([text_sample(RNG, 2)]), sources=("b",))
    plain = collate([first, second], replace(LAYOUT, loss_weight=rule))
    weighted = collate([first, second], replace(LAYOUT, loss_weight=rule, source_weights={"b": 0.25}))
    factors = torch.tensor([1.0] * 3 + [0.25] * 3)
    torch.testing.assert_close(weighted.weights, plain.weights * factors)
    assert weighted.total_weight == pytest.approx(float((plain.weights * factors).sum()))


def test_placeholders_that_are_not_the_runs_of_the_images_are_an_error() -> None:
    pack = replace(pack_of([image_sample(RNG, (2, 4), 2)], index=5), images=())
    with pytest.raises(BatchError, match=r"pack 5: its 0 images cover 0 tokens, but its 2 image placeholders"):
        collate([pack], LAYOUT)


def test_an_image_that_cannot_be_decoded_names_its_pack() -> None:
    pack = pack_of([image_sample(RNG, (2, 4), 2)], index=3)
    broken = replace(pack, images=(replace(pack.images[0], data=b"no picture"),))
    with pytest.raises(BatchError, match=r"pack 3: the image at token 1 cannot be decoded .*mindvl_data verify"):
        collate([broken], LAYOUT)
