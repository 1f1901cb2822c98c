"""The benchmark of packed beside padded compares the same work: samples, targets and losses of both are equal."""

import numpy as np
import pytest
import torch

from mindvl_train.data.batch import Batch
from tests.benchmarks.padding import invented, packed, padded
from tests.mindvl_train.synthetic import SPECIAL_IDS, image_sample, text_sample, tiny_model

IMAGE_PAD = SPECIAL_IDS["image_pad"]


def _loss(batches: list[Batch]) -> float:
    model = tiny_model()
    with torch.no_grad():
        return sum(model(batch).item() for batch in batches)


@pytest.mark.parametrize("size", [1, 3, 4])
def test_padding_changes_no_loss(size: int) -> None:
    rng = np.random.default_rng(0)
    samples = [text_sample(rng, 5 + 3 * number) for number in range(4)] + [image_sample(rng, (4, 6), 7)]
    ours, theirs = packed(samples, 32, IMAGE_PAD), padded(samples, size, IMAGE_PAD)
    useful = sum(len(sample.tokens) for sample in samples)
    assert sum(batch.num_tokens for batch in ours) == sum(batch.num_tokens for batch in theirs) == useful
    assert sum(batch.num_targets for batch in ours) == sum(batch.num_targets for batch in theirs)
    assert _loss(theirs) == pytest.approx(_loss(ours), rel=1e-5)


@pytest.mark.parametrize("mix", ["text-heavy", "90% x 64 + 2048"])
def test_invented_samples_fit_a_pack(mix: str) -> None:
    samples = invented(mix, 40, 2560)
    assert max(len(sample.tokens) for sample in samples) <= 2560
    assert len({len(sample.tokens) for sample in samples}) > 1
    assert all(sample.loss_mask.any() for sample in samples)
