"""What a batch is made of, and that it is made loudly or right."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mindvl_data import vision
from mindvl_train.data.batch import BatchError, collate
from tests.mindvl_train.synthetic import LAYOUT, image_sample, mixed_packs, pack_of, text_sample

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
